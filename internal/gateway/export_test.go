package gateway

// RawPath is rawPath, for tests.
var RawPath = rawPath
