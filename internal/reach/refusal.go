package reach

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
)

// A Refusal is a failure that lasts until a setting is changed.
type Refusal struct {
	Fix string // what to change
	Err error  // the failure
}

func (e *Refusal) Error() string { return fmt.Sprintf("%v: %s", e.Err, e.Fix) }

// Unwrap returns e.Err.
func (e *Refusal) Unwrap() error { return e.Err }

// lasting returns what to do about a failed connection that will fail again. It returns "" if the failure may pass, as a refused
// connection, a time-out and a name server that does not answer may.
func lasting(err error) string {
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		return fmt.Sprintf("there is no host %s: check the endpoint", dns.Name)
	}
	if _, ok := errors.AsType[*net.AddrError](err); ok {
		return "check the port of the endpoint"
	}
	if errors.Is(err, http.ErrSchemeMismatch) {
		return "this port speaks plain HTTP: give an endpoint that begins with http://, or the port that speaks TLS"
	}
	if strings.Contains(err.Error(), "malformed HTTP") { // net/http exports no type for it
		return "this port does not speak HTTP: check the endpoint's port, and whether it begins with https://"
	}
	return lastingTLS(err)
}

func lastingTLS(err error) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "check the endpoint's host; if its certificate is a private authority's, add that authority to the system's certificates (or SSL_CERT_FILE)"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "give the endpoint by a name that its certificate has"
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return "check this machine's clock; if it is right, the server needs a new certificate"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "the server's certificate cannot be trusted: check the endpoint's host, and this machine's certificates"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "this port does not speak TLS: check the endpoint's port, and whether it begins with http://"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" && !passingAlerts[op.Err.Error()] {
		return "the server refuses the TLS connection: check the endpoint's host, and whether something on the way breaks TLS open"
	}
	return ""
}

// passingAlerts are the TLS alerts that a server with a temporary fault sends, in the words of package tls.
var passingAlerts = map[string]bool{"tls: internal error": true, "tls: user canceled": true}
