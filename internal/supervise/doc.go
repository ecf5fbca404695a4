// Package supervise runs a command under a lease: the command and all processes that it starts end before the lease
// expires, and each renewal of the lease extends that deadline.
//
// Two processes take part. The supervisor ([Run]) holds the lease. It starts the guard ([Guard]), which is the
// command's parent, and sends it the new deadline after each renewal. The guard stops the command
//
//   - on the supervisor's order, because the lease is lost;
//   - before the deadline, early enough for SIGTERM, the grace and SIGKILL, because the lease was not renewed;
//   - when the supervisor ends, even by SIGKILL, which closes the connection between the two;
//   - when the command has ended and has left processes behind.
//
// On Linux the guard is a child subreaper: the processes of its command remain its descendants, whatever process group
// or session they make for themselves and however often they fork, and the guard ends only when it has no children
// left. The supervisor is a subreaper too. If the guard is killed, its processes become the supervisor's children,
// which stops them. Signals go to a process group only while its leader is known to exist, and otherwise to a pidfd, so
// that no process is signalled that got the id of an ended one. On other systems only the command's process group is
// stopped.
//
// Two kinds of processes are not stopped on any system: those that another program starts on behalf of the command (a
// service manager, a container daemon, at, ssh), and those of other users, which the guard may not signal. The guard
// reports the latter in [Outcome.Left].
//
// If the supervisor's process group is the terminal's foreground, the command's becomes it. If the command is stopped
// from the terminal, the supervisor stops itself and its process group, so that the shell sees a stopped job; when the
// shell resumes the supervisor, it resumes the command. The guard is not stopped, and ends the command before the lease
// expires.
package supervise
