//go:build tools

// Package addons names the test cluster's volume provisioner, so that go.mod pins it.
package addons

import _ "github.com/rancher/local-path-provisioner"
