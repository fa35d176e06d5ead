"""From a worker's spec to what is measured and what is applied.  Pure; imports only api and what is below.

A change of what `render` gives for a template version would move every worker's measurement: the golden test holds it still.
"""

from chrysalis.rendering.children import owned
from chrysalis.rendering.reasons import RenderError, RenderReason
from chrysalis.rendering.reference import Judging, measurement
from chrysalis.rendering.worker import Rendered, render

__all__ = ["Judging", "RenderError", "RenderReason", "Rendered", "measurement", "owned", "render"]
