# One end to talk to: a process on pipes or on a terminal of its own, or a connection to a Unix socket. Bytes move only
# in Scenario::Peers::pump, which serves all peers at once, so no guest blocks because the script waits for another.
package Scenario::Peer;
use strict;
use warnings;
use Fcntl qw(F_GETFL F_SETFL O_NONBLOCK O_NOCTTY O_RDWR O_WRONLY O_CREAT O_TRUNC);
use POSIX ();
use Socket qw(AF_UNIX SOCK_STREAM pack_sockaddr_un);

use constant {
    PR_SET_PDEATHSIG => 1,
    SYS_PRCTL        => 157,
    SYS_PIDFD_OPEN   => 434,
    TCGETS           => 0x5401,
    TIOCGPTN         => 0x80045430,
    TIOCSPTLCK       => 0x40045431,
    TIOCSCTTY        => 0x540E,
    TIOCSWINSZ       => 0x5414,
    TERMIOS_SIZE     => 36,
    CHUNK            => 1 << 16,
};

my @reset_signals = qw(INT TERM HUP QUIT PIPE CHLD);

# Ends the process with its parent, kill -9 of the parent included.
sub die_with_parent
{
    my ($parent) = @_;
    syscall SYS_PRCTL, PR_SET_PDEATHSIG, POSIX::SIGKILL(), 0, 0, 0;
    POSIX::_exit(127) if getppid != $parent;
}

sub nonblocking
{
    my ($handle) = @_;
    fcntl $handle, F_SETFL, fcntl($handle, F_GETFL, 0) | O_NONBLOCK or die "fcntl: $!\n";
    return $handle;
}

sub stream
{
    my ($handle, $mark) = @_;
    return { handle => nonblocking($handle), mark => $mark, text => '', read => 0 };
}

sub new
{
    my ($class, $name) = @_;
    return bless { name => $name, queue => '' }, $class;
}

# ---- processes -----------------------------------------------------------------

# Starts @$words with the options that docs/scenarios.md lists.
sub spawn
{
    my ($class, $name, $words, %option) = @_;
    my $self = $class->new($name);
    my $child = $option{on} eq 'terminal' ? $self->open_terminal : $self->open_pipes(\%option);
    my $parent = $$;
    # Until the child is someone else it must not act on a signal that a script sends it as the script itself would.
    my ($term, $before) = (POSIX::SigSet->new(POSIX::SIGTERM()), POSIX::SigSet->new);
    POSIX::sigprocmask(POSIX::SIG_BLOCK(), $term, $before);
    my $pid = fork // die "fork: $!\n";
    $SIG{TERM} = 'DEFAULT' if $pid == 0;
    POSIX::sigprocmask(POSIX::SIG_SETMASK(), $before);
    if ($pid == 0) {
        eval { in_child($parent, $child, $words, \%option) };
        syswrite STDERR, "scenario: $@";
        POSIX::_exit(127);
    }
    $self->{pid} = $pid;
    my $pidfd = syscall SYS_PIDFD_OPEN, $pid, 0;
    open $self->{ended}, '<&=', $pidfd or die "pidfd_open: $!\n";
    return $self;
}

sub open_pipes
{
    my ($self, $option) = @_;
    my %child;
    if ($option->{stdin} eq 'pipe') {
        pipe $child{0}, $self->{input} or die "pipe: $!\n";
        nonblocking($self->{input});
    }
    for ([1, 'stdout', 'out', '|'], [2, 'stderr', 'err', '!']) {
        my ($fd, $key, $stream, $mark) = @$_;
        next if $option->{$key} ne 'pipe';
        pipe my $from, $child{$fd} or die "pipe: $!\n";
        $self->{$stream} = stream($from, $mark);
    }
    return \%child;
}

sub open_terminal
{
    my ($self) = @_;
    sysopen my $master, '/dev/ptmx', O_RDWR | O_NOCTTY or die "/dev/ptmx: $!\n";
    my $number = pack 'i', 0;
    ioctl $master, TIOCSPTLCK, $number or die "TIOCSPTLCK: $!\n";
    ioctl $master, TIOCGPTN, $number or die "TIOCGPTN: $!\n";
    sysopen my $slave, '/dev/pts/' . unpack('i', $number), O_RDWR | O_NOCTTY or die "/dev/pts: $!\n";
    my $size = pack 'S4', 24, 80, 0, 0;
    ioctl $slave, TIOCSWINSZ, $size or die "TIOCSWINSZ: $!\n";
    $self->{terminal} = $slave;
    $self->{terminal_state} = $self->terminal_state;
    $self->{out} = stream($master, '|');
    $self->{input} = $master;
    return { 0 => $slave, 1 => $slave, 2 => $slave };
}

# The line settings of the peer's terminal, to compare.
sub terminal_state
{
    my ($self) = @_;
    my $state = '';
    ioctl $self->{terminal}, TCGETS, $state or die "TCGETS: $!\n";
    return substr $state, 0, TERMIOS_SIZE;
}

sub in_child
{
    my ($parent, $child, $words, $option) = @_;
    die_with_parent($parent);
    my %files = (0 => $option->{stdin}, 1 => $option->{stdout}, 2 => $option->{stderr});
    if ($option->{on} eq 'terminal') {
        POSIX::setsid();
        ioctl $child->{0}, TIOCSCTTY, 0 or die "TIOCSCTTY: $!\n";
    }
    for my $fd (0 .. 2) {
        if ($child->{$fd}) { POSIX::dup2(fileno $child->{$fd}, $fd) }
        elsif ($files{$fd} eq 'closed') { POSIX::close($fd) }
        else { redirect($fd, $files{$fd}) }
    }
    $SIG{$_} = 'DEFAULT' for @reset_signals;
    local %ENV = (%ENV, %{ $option->{env} });
    exec { $words->[0] } @$words;
    die "$words->[0]: $!\n";
}

sub redirect
{
    my ($fd, $path) = @_;
    my $file = POSIX::open($path, $fd == 0 ? O_RDWR : O_WRONLY | O_CREAT | O_TRUNC, 0644) // die "$path: $!\n";
    return if $file == $fd;
    POSIX::dup2($file, $fd);
    POSIX::close($file);
}

# ---- connections ---------------------------------------------------------------

sub connect
{
    my ($class, $name, $path) = @_;
    my $self = $class->new($name);
    socket my $socket, AF_UNIX, SOCK_STREAM, 0 or die "socket: $!\n";
    CORE::connect nonblocking($socket), pack_sockaddr_un($path) or return;
    $self->{out} = stream($socket, '|');
    $self->{input} = $socket;
    return $self;
}

# ---- moving bytes --------------------------------------------------------------

sub streams
{
    my ($self) = @_;
    return grep { $_ && $_->{handle} } $self->{out}, $self->{err};
}

# Takes what `stream` has now; forgets its handle at the end of file.
sub take
{
    my ($self, $stream, $log) = @_;
    while (1) {
        my $count = sysread $stream->{handle}, $stream->{text}, CHUNK, length $stream->{text};
        if ($count) {
            $log->($self, $stream, $count);
            next;
        }
        next if !defined $count && $!{EINTR};
        delete $stream->{handle} if defined $count || !$!{EAGAIN};
        return;
    }
}

# Writes what is queued and fits; a reader that went away swallows the rest, as a terminal's does.
sub give
{
    my ($self) = @_;
    my $count = syswrite $self->{input}, $self->{queue}, CHUNK;
    if (defined $count) { substr $self->{queue}, 0, $count, '' }
    elsif (!$!{EAGAIN} && !$!{EINTR}) { $self->close_input }
    $self->close_input if $self->{closing} && $self->{queue} eq '';
}

# No more input: the peer reads the end of file, after what is still queued.
sub close_input
{
    my ($self) = @_;
    $self->{queue} = '' if !$self->{closing};
    shutdown $self->{input}, 1 if $self->{input} && -S $self->{input};
    delete $self->{input};
}

sub reap
{
    my ($self) = @_;
    waitpid $self->{pid}, 0;
    $self->{status} = ($? & 127) ? 128 + ($? & 127) : $? >> 8;
    $self->{killed} = $? & 127;
    delete $self->{ended};
    delete $self->{input};
}

1;
