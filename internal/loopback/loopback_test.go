package loopback

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

func TestListen(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "127.9.9.9:0", "localhost:0", "[::1]:0", "[::ffff:127.0.0.1]:0"} {
		l, err := Listen(t.Context(), address)
		if err != nil {
			if strings.Contains(address, "::1]") && !errors.Is(err, ErrRemote) {
				continue // this machine has no IPv6
			}
			t.Errorf("%s: %v", address, err)
			continue
		}
		if tcp, ok := l.Addr().(*net.TCPAddr); !ok || !tcp.IP.IsLoopback() {
			t.Errorf("%s: listens on %v", address, l.Addr())
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, address := range []string{":0", "0.0.0.0:0", "[::]:0", "[::ffff:0.0.0.0]:0"} {
		if l, err := Listen(t.Context(), address); !errors.Is(err, ErrRemote) {
			t.Errorf("%s: %v, %v", address, l, err)
		}
	}
	for _, address := range remoteAddresses(t) {
		if l, err := Listen(t.Context(), net.JoinHostPort(address, "0")); !errors.Is(err, ErrRemote) {
			t.Errorf("%s: %v, %v", address, l, err)
		}
	}
}

// remoteAddresses are this machine's addresses on other interfaces; none on a machine without a network.
func remoteAddresses(t *testing.T) (list []string) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			list = append(list, n.IP.String())
		}
	}
	return list
}

// The address that a name resolves to counts, not the name: "localhost" may be another machine's idea.
func TestListenLooksAtTheResolvedAddress(t *testing.T) {
	for address, remote := range map[string]bool{
		"127.0.0.1:80": false, "[::1]:80": false, "[::ffff:127.0.0.1]:80": false, "192.0.2.1:80": true, "[2001:db8::1]:80": true, "[::]:80": true, "0.0.0.0:80": true, "[fe80::1%lo]:80": true, "localhost:80": true, "": true,
	} {
		if err := refuseRemote("tcp", address, nil); errors.Is(err, ErrRemote) != remote {
			t.Errorf("%q: %v", address, err)
		}
	}
}

func TestListenReturnsOtherErrors(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := Listen(ctx, "127.0.0.1"); err == nil || errors.Is(err, ErrRemote) {
		t.Error(err)
	}
}
