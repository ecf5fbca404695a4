// Package loopback opens the listeners of this project's programs. None of them authenticates its callers, so none is reachable from
// another machine unless a flag says so.
package loopback

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
)

// ErrRemote is the error of an address that other machines can reach.
var ErrRemote = errors.New("address can be reached from other machines")

// Listen opens a TCP address of this machine's loopback interface, such as "127.0.0.1:0", "[::1]:7420" or "localhost:7420". Any other
// address is [ErrRemote], also one that a host name resolves to, and the empty host, which stands for all interfaces; nothing listens
// there even for a moment.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	config := net.ListenConfig{Control: refuseRemote}
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if tcp, ok := listener.Addr().(*net.TCPAddr); !ok || !tcp.IP.IsLoopback() { // an address that was not bound through refuseRemote
		return nil, errors.Join(ErrRemote, listener.Close())
	}
	return listener, nil
}

// refuseRemote is called with the resolved address before a socket is bound to it.
func refuseRemote(_, address string, _ syscall.RawConn) error {
	bound, err := netip.ParseAddrPort(address)
	if err != nil || !bound.Addr().Unmap().IsLoopback() {
		return ErrRemote
	}
	return nil
}
