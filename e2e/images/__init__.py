"""The project's container images: assembled from locked wheels and Debian's packages, the same inputs to the same digest."""

from __future__ import annotations

from e2e.images.oci import Image
from e2e.images.reasons import ImageError, Reason
from e2e.images.recipes import RECIPES, build

__all__ = ["RECIPES", "Image", "ImageError", "Reason", "build"]
