"""The version, in one place the package, its manifests and its reports agree on."""

VERSION = "0.1.0"
