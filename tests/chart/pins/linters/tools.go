//go:build tools

// Package linters names the programs that judge the chart, so that go.mod pins them. They have a module of their own
// since kube-score needs an older Kubernetes API than helm.
package linters

import (
	_ "github.com/yannh/kubeconform/cmd/kubeconform"
	_ "github.com/zegl/kube-score/cmd/kube-score"
)
