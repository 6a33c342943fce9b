//go:build invariants

package main

// invariants is set by the build tag of that name: expensive checks run and lent buffers are spoiled.
const invariants = true
