# The verbs of a scenario; docs/scenarios.md describes them for those who write one. They are Perl functions, and a
# scenario is Perl with these imported. The tool beside this folder loads it in a process of its own for each scenario.
package Scenario;
use strict;
use warnings;
use Exporter 'import';
use POSIX ();
use Text::ParseWords 'shellwords';
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);
use Scenario::Peer;

our @EXPORT = qw(start launch connect hang_up wait_for wait_for_error type close_input signal exits fails capture
    output errors eventually same ok note now pause pid running killed read_file write_file fail %guest $dir $here $godwit);

use constant {
    PATIENCE   => 30,         # seconds that a wait lasts where the script does not say
    SHUTDOWN   => 3,          # seconds a process that ended has to put its surroundings right
    LINE_MAX   => 400,        # of the transcript
    STREAM_MAX => 64 << 10,
};

our ($godwit, $dir, $here, %guest);
my (%peers, $transcript, $began, $script);
tie %guest, 'Scenario::Guests';

# Called by the tool before the script runs: its path, the working folder and where the transcript goes.
sub begin
{
    ($script, $dir, $transcript) = @_;
    $godwit = $ENV{GODWIT};
    $here = $script =~ s{/[^/]*$}{}r;
    $began = now();
    binmode $transcript;
    $transcript->autoflush(1);
    $SIG{PIPE} = 'IGNORE';
}

# Called by the tool after the script: a script has to say how each of its processes ends.
sub finish
{
    for my $peer (grep { $_->{pid} && !defined $_->{status} } values %peers) {
        fail("$peer->{name} still runs at the end of the script: end it (exits NAME => STATUS)");
    }
}

sub now { return clock_gettime(CLOCK_MONOTONIC) }

# ---- failures and the transcript -----------------------------------------------

sub fail
{
    my ($message) = @_;
    my @lines;
    for (my $level = 0; my (undef, $file, $line) = caller $level; $level++) {
        push @lines, $line if $file eq $script;
    }
    die $message . (@lines ? ' (line ' . join(', from line ', @lines) . ')' : '') . "\n";
}

sub printable
{
    my ($text) = @_;
    $text =~ s/([^\x20-\x7e])/ $1 eq "\n" ? '\n' : $1 eq "\r" ? '\r' : $1 eq "\t" ? '\t' : sprintf '\x%02x', ord $1 /ge;
    return length $text > LINE_MAX ? substr($text, 0, LINE_MAX) . ' ...' : $text;
}

sub note
{
    my ($text) = @_;
    flush_logs();
    printf $transcript "%8.3f  %s\n", now() - $began, $text;
}

sub log_line
{
    my ($peer, $stream, $text) = @_;
    return if ($stream->{logged} += length $text) - length $text > STREAM_MAX;
    printf $transcript "%8.3f  %s %s %s\n", now() - $began, $peer->{name}, $stream->{mark}, printable($text);
    print $transcript "          (and so on: no more of this in the transcript)\n" if $stream->{logged} > STREAM_MAX;
}

# Logs the whole lines that have come; the rest when something else is to be logged.
sub log_stream
{
    my ($peer, $stream, $count) = @_;
    $stream->{line} .= substr $stream->{text}, -$count;
    while ($stream->{line} =~ s/\A(.*?)\r?\n//s) { log_line($peer, $stream, $1) }
}

sub flush_logs
{
    for my $peer (values %peers) {
        for my $stream (grep { $_ && length($_->{line} // '') } $peer->{out}, $peer->{err}) {
            log_line($peer, $stream, $stream->{line});
            $stream->{line} = '';
        }
    }
}

# ---- waiting -------------------------------------------------------------------

# Moves bytes of all peers, and waits at most `seconds` for there to be some.
sub pump
{
    my ($seconds) = @_;
    my ($read, $write) = ('', '');
    for my $peer (values %peers) {
        vec($read, fileno $_->{handle}, 1) = 1 for $peer->streams;
        vec($read, fileno $peer->{ended}, 1) = 1 if $peer->{ended};
        vec($write, fileno $peer->{input}, 1) = 1 if $peer->{input} && ($peer->{queue} ne '' || $peer->{closing});
    }
    return if select($read, $write, undef, $seconds) <= 0;
    for my $peer (values %peers) {
        my $ended = $peer->{ended} && vec $read, fileno $peer->{ended}, 1;
        $peer->give if $peer->{input} && vec $write, fileno $peer->{input}, 1;
        $peer->reap if $ended;
        $peer->take($_, \&log_stream) for grep { $ended || vec $read, fileno $_->{handle}, 1 } $peer->streams;
        note("$peer->{name} ended: " . ending($peer)) if $ended;
    }
}

# Pumps until `condition` holds; false where it did not within `seconds`. `interval`: a condition that no peer's
# bytes announce is looked at that often.
sub await
{
    my ($seconds, $condition, $interval) = @_;
    my $end = now() + $seconds;
    until ($condition->()) {
        my $left = $end - now();
        return 0 if $left <= 0;
        pump($interval && $interval < $left ? $interval : $left);
    }
    return 1;
}

# pause SECONDS: lets time pass.
sub pause
{
    my ($seconds) = @_;
    await($seconds, sub { 0 });
}

sub eventually (&;$$)
{
    my ($condition, $seconds, $what) = @_;
    $seconds //= PATIENCE;
    await($seconds, $condition, 0.02) or fail(($what // 'the condition') . " did not come within $seconds s");
}

sub peer
{
    my ($name) = @_;
    return $peers{$name} // fail("there is no $name: start it first");
}

sub ending
{
    my ($peer) = @_;
    return "killed by SIG" . signal_name($peer->{killed}) . " (status $peer->{status})" if $peer->{killed};
    return "status $peer->{status}";
}

sub signal_name
{
    my ($number) = @_;
    for my $name (qw(HUP INT QUIT ILL ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM)) {
        return $name if POSIX->can("SIG$name")->() == $number;
    }
    return $number;
}

# ---- verbs: processes and connections ------------------------------------------

sub words
{
    my ($command) = @_;
    return ref $command ? @$command : shellwords($command);
}

# start NAME => ARGUMENTS, OPTION => VALUE...: runs godwit with ARGUMENTS.
sub start
{
    my ($name, $command, %option) = @_;
    launch($name, [$godwit, words($command)], %option);
}

# launch NAME => COMMAND, OPTION => VALUE...: runs any program.
sub launch
{
    my ($name, $command, %option) = @_;
    my %all = (on => 'pipes', stdin => 'pipe', stdout => 'pipe', stderr => 'pipe', env => {}, %option);
    for my $key (keys %all) { $key =~ /^(on|std(in|out|err)|env)$/ or fail("start: there is no option $key") }
    fail("$name runs already") if $peers{$name} && $peers{$name}{ended};
    flush_logs();
    my @words = words($command);
    note("$name: " . join ' ', map { /\s|^$/ ? "'$_'" : $_ } @words);
    $peers{$name} = Scenario::Peer->spawn($name, \@words, %all);
}

# connect NAME => PATH, SECONDS: opens the Unix socket at PATH, which may still be about to appear.
sub connect
{
    my ($name, $path, $seconds) = @_;
    my $peer;
    await($seconds // PATIENCE, sub { $peer = Scenario::Peer->connect($name, $path) }, 0.005)
        or fail("no connection to $path: $!");
    note("$name: connected to $path");
    $peers{$name} = $peer;
}

sub hang_up
{
    my ($name) = @_;
    note("$name: hangs up");
    delete @{ peer($name) }{qw(out input)};
    delete $peers{$name};
}

sub pid     { return peer(@_)->{pid} }
sub running { return !defined peer(@_)->{status} }
sub killed  { return peer(@_)->{killed} }

sub signal
{
    my ($name, $signal) = @_;
    note("$name: SIG$signal");
    kill $signal, pid($name) or fail("SIG$signal for $name: $!");
}

# exits NAME => STATUS, SECONDS: waits for the end and compares the status (a signal N counts as 128 + N). STATUS may
# be a list [...] of those allowed. A terminal has to be as it was.
sub exits
{
    my ($name, $want, $seconds) = @_;
    my $peer = peer($name);
    $seconds //= PATIENCE;
    await($seconds, sub { defined $peer->{status} }) or fail("$name still ran after $seconds s");
    $peer->take($_, \&log_stream) for $peer->streams;
    my @want = ref $want ? @$want : $want;
    grep { $peer->{status} == $_ } @want
        or fail("$name ended: " . ending($peer) . ', but it should be ' . join(' or ', @want));
    return $peer->{status} if !$peer->{terminal};
    await(SHUTDOWN, sub { $peer->terminal_state eq $peer->{terminal_state} }, 0.01)
        or fail("$name did not restore its terminal");
    return $peer->{status};
}

# ---- verbs: input and output ---------------------------------------------------

sub find
{
    my ($stream, $want) = @_;
    if (ref $want) {
        pos($stream->{text}) = $stream->{read};
        return if $stream->{text} !~ /$want/g;
        $stream->{read} = pos $stream->{text};
        return map { substr $stream->{text}, $-[$_], $+[$_] - $-[$_] } 0 .. $#+;
    }
    my $from = $stream->{scanned} // $stream->{read};
    my $at = index $stream->{text}, $want, $from < $stream->{read} ? $stream->{read} : $from;
    $stream->{scanned} = length($stream->{text}) - length $want;
    return if $at < 0;
    delete $stream->{scanned};
    $stream->{read} = $at + length $want;
    return $want;
}

sub wait_in
{
    my ($name, $key, $want, $seconds) = @_;
    my $peer = peer($name);
    my $stream = $peer->{$key} // fail("$name has no such output to read");
    $seconds //= PATIENCE;
    delete $stream->{scanned};
    my @found;
    await($seconds, sub { (@found = find($stream, $want)) || defined $peer->{status} || !$stream->{handle} });
    return wantarray ? @found[ 1 .. $#found ] : $found[0] if @found;
    my $what = ref $want ? "$want" : '"' . printable($want) . '"';
    fail("$name ended (" . ending($peer) . ") before it printed $what") if defined $peer->{status};
    fail("$name closed its output before it printed $what") if !$stream->{handle};
    fail("$name did not print $what within $seconds s");
}

# wait_for NAME => TEXT or PATTERN, SECONDS: waits for output after what the last wait_for found. Returns what was found;
# in list context what the pattern's parentheses caught.
sub wait_for
{
    my ($name, $want, $seconds) = @_;
    return wait_in($name, 'out', $want, $seconds);
}

# The same for standard error, where that is not the terminal.
sub wait_for_error
{
    my ($name, $want, $seconds) = @_;
    return wait_in($name, 'err', $want, $seconds);
}

sub type
{
    my ($name, $text) = @_;
    my $peer = peer($name);
    $peer->{input} or fail("$name takes no input (any more)");
    note("$name < " . printable($text));
    $peer->{queue} .= $text;
    pump(0);
}

sub close_input
{
    my ($name) = @_;
    note("$name: end of input");
    peer($name)->{closing} = 1;
    pump(0);
}

sub output { return peer(@_)->{out}{text} }
sub errors { return peer(@_)->{err}{text} }

# capture COMMAND: runs any program to its end and returns (status, output, errors).
sub capture
{
    my ($command, $seconds) = @_;
    launch(capture => $command, stdin => '/dev/null');
    my $peer = $peers{capture};
    await($seconds // PATIENCE, sub { defined $peer->{status} }) or fail('the command took too long');
    return ($peer->{status}, $peer->{out}{text}, $peer->{err}{text});
}

# fails ARGUMENTS => STATUS, PATTERN: godwit refuses with STATUS and one line on standard error, which PATTERN matches,
# and prints nothing.
sub fails
{
    my ($command, $want, $pattern, %option) = @_;
    my @words = $option{through} ? words($option{through}) : ();
    my ($status, $out, $err) = capture([@words, $godwit, words($command)]);
    same($status, $want, 'status');
    same($out, '', 'standard output');
    $err =~ /\A[^\n]+\n\z/ or fail('standard error is not one line: "' . printable($err) . '"');
    $err =~ $pattern or fail('the message does not match ' . $pattern . ': ' . printable($err));
}

# ---- verbs: comparing ----------------------------------------------------------

sub same
{
    my ($have, $want, $what) = @_;
    $have eq $want and return;
    fail(($what // 'value') . ' is "' . printable($have) . '", not "' . printable($want) . '"');
}

sub ok
{
    my ($holds, $what) = @_;
    $holds or fail("it does not hold that $what");
}

sub read_file
{
    my ($path) = @_;
    open my $file, '<:raw', $path or fail("$path: $!");
    local $/;
    return scalar readline $file;
}

sub write_file
{
    my ($path, $bytes) = @_;
    open my $file, '>:raw', $path or fail("$path: $!");
    print $file $bytes;
    close $file or fail("$path: $!");
    return $path;
}

# %guest: paths of the guests' files.
package Scenario::Guests;

sub TIEHASH { return bless {}, shift }

sub FETCH
{
    my (undef, $name) = @_;
    my ($path) = grep { -e } map { "$_/$name" } split /:/, $ENV{GODWIT_GUESTS};
    return $path // Scenario::fail("there is no guest $name in $ENV{GODWIT_GUESTS}");
}

1;
