//go:build tools

// Package helm names the program of the chart's tests, so that go.mod pins it.
package helm

import _ "helm.sh/helm/v4/cmd/helm"
