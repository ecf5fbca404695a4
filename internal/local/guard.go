package local

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// A guard is an [http.Handler] that refuses the requests of web pages, since this coordinator has no authentication. A page can
// reach a server on its reader's machine by a host name that resolves to 127.0.0.1 (DNS rebinding); its requests then have that
// name in the Host header. Under any other name the browser sends the page's Origin.
type guard struct {
	next http.Handler
	// hosts are the names of this server, besides localhost and IP addresses, which DNS rebinding cannot give to a page.
	hosts []string
}

func (g guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host, origin, site := hostname(r.Host), r.Header.Get("Origin"), r.Header.Get("Sec-Fetch-Site")
	switch {
	case !g.known(host):
		refuse(w, wire.InvalidRequest, "host", fmt.Sprintf("the Host header is %q, and a web page could have made it so; use localhost or 127.0.0.1, or start holdfast dev with --allow-host %s", r.Host, host))
	case origin != "" && !sameHost(origin, r.Host):
		refuse(w, wire.InvalidRequest, "origin", fmt.Sprintf("the request is that of a web page at %s; this coordinator has no authentication, and takes none from web pages", origin))
	case site != "" && site != "same-origin" && site != "none" && r.Header.Get("Sec-Fetch-Mode") != "navigate":
		refuse(w, wire.InvalidRequest, "sec-fetch-site", "the request is that of another web page; this coordinator has no authentication, and takes none from web pages")
	default:
		g.next.ServeHTTP(w, r)
	}
}

func (g guard) known(host string) bool {
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || net.ParseIP(host) != nil ||
		slices.ContainsFunc(g.hosts, func(h string) bool { return hostname(h) == host })
}

// hostname returns the host of a Host header, without the port and in lower case.
func hostname(header string) string {
	host, _, err := net.SplitHostPort(header)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(header, "["), "]")
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

func sameHost(origin, host string) bool {
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, host)
}
