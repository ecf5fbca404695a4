// Package supervise runs a command so that the command and everything that it starts end before a deadline that moves: the end
// of a lease.
//
// Two processes take part. The supervisor ([Run]) knows the lease. It starts the guard ([Guard]), which is the command's parent,
// and tells it the deadline each time that the lease is renewed. The guard stops the command
//
//   - when the supervisor says so, because the lease is lost;
//   - when the deadline is near, in time for SIGTERM, the grace and SIGKILL, because the lease was not renewed;
//   - when the supervisor is gone, even by SIGKILL: the connection between the two ends;
//   - when the command has ended and has left processes behind.
//
// On Linux the guard is a child subreaper: the processes of its command remain its descendants, whatever process group or
// session they make for themselves and however often they fork, and the guard ends only when it has no children left. The
// supervisor is a subreaper too. If the guard is killed, its processes become the supervisor's children, which stops them.
// Signals go to process groups only while their leader is known to exist, and otherwise to a pidfd, so that an id that the system
// gave to another process is never signalled. On other systems only the command's process group is stopped.
//
// Not covered on any system: a process that another program starts at the command's request (a service manager, a container
// daemon, at, ssh), and a process of another user, which the guard may not signal. The guard reports the latter, see
// [Outcome.Left].
//
// The command's process group is the foreground of the terminal where the supervisor's was. If the command is stopped from the
// terminal, the supervisor stops itself and its process group, so that the shell sees a stopped job; when the shell resumes it,
// it resumes the command. The guard is not stopped, and ends the command when the lease runs out meanwhile.
package supervise
