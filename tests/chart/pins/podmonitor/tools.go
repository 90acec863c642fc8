//go:build tools

// Package podmonitor pins the Prometheus operator, whose definition of the PodMonitor the chart's tests use.
package podmonitor

import _ "github.com/prometheus-operator/prometheus-operator/pkg/versionutil"
