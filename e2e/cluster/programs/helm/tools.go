//go:build tools

// Package tools names the Helm program that the development cluster installs charts with.
package tools

import _ "helm.sh/helm/v4/cmd/helm"
