# What the benchmarks share: summaries of what was measured, as a table or as JSON (docs/benchmarks.md).
package Bench;
use strict;
use warnings;
use Exporter 'import';
use POSIX ();

our @EXPORT = qw(begin quartiles compare heading report kvm_kind slurp);
my ($bench, $json);

# Sets the name of the benchmark and whether to print JSON, and prints what host this is.
sub begin
{
    ($bench, $json) = @_;
    $| = 1;
    $json or print "host: ", host(), "\n\n";
}

# Lower quartile, median and upper quartile.
sub quartiles
{
    my @sorted = sort { $a <=> $b } @_;
    return map { my $at = $_ * $#sorted; my $low = int $at;
        $sorted[$low] + ($at - $low) * (($sorted[$low + 1] // $sorted[$low]) - $sorted[$low]) } 0.25, 0.5, 0.75;
}

# Reports the values of each contestant ([NAME, ...]; godwit first), and godwit's as a ratio to each other's of the same
# round. `ratios` are the targets of those by name, `limit` that of godwit's median; either may be missing. A target is the most
# that a median may be, or as '>= N' the least.
sub compare
{
    my ($figure, $unit, $contestants, $values, $ratios, $limit) = @_;
    for my $index (0 .. $#$contestants) {
        my $name = $contestants->[$index][0];
        report($figure, $name, $unit, $values->[$index], $index == 0 ? $limit : undef);
    }
    for my $index (1 .. $#$contestants) {
        my $name = $contestants->[$index][0];
        my @ratio = map { $values->[0][$_] / $values->[$index][$_] } 0 .. $#{ $values->[0] };
        report($figure, "godwit / $name", 'ratio', \@ratio, $ratios->{$name});
    }
}

sub heading
{
    my ($title, $unit) = @_;
    $json or printf "%-46s %10s %10s %10s   %s\n", "$title ($unit)", 'quartile', 'median', 'quartile', 'target';
}

sub report
{
    my ($figure, $what, $unit, $values, $target) = @_;
    my @q = quartiles(@$values);
    my ($least, $limit) = defined $target ? $target =~ /^(>= )?(.*)/ : ();
    my $met = defined $target ? ($least ? $q[1] >= $limit : $q[1] <= $limit) : undef;
    if ($json) {
        printf '{"bench":"%s","figure":"%s","what":"%s","unit":"%s","low":%.4g,"median":%.4g,"high":%.4g,"rounds":%d',
            $bench, $figure, $what, $unit, @q, scalar @$values;
        printf ',"target":%s,"least":%s,"met":%s', $limit, map { $_ ? 'true' : 'false' } $least, $met if defined $target;
        printf qq(,"host":"%s"}\n), host();
    } else {
        printf "  %-44s %10.4g %10.4g %10.4g", $what, @q;
        printf "   %s %s: %s", $least ? '>=' : '<=', $limit, $met ? 'met' : 'missed' if defined $target;
        print "\n";
    }
}

sub kvm_kind
{
    -e '/dev/kvm' or return 'no KVM';
    return slurp('/proc/cpuinfo') =~ /^flags\s*:.*\b(vmx|svm)\b/m ? "hardware KVM ($1)" : 'PVM';
}

sub host
{
    my ($model) = slurp('/proc/cpuinfo') =~ /^model name\s*:\s*(.*)$/m;
    my $cpus = () = slurp('/proc/cpuinfo') =~ /^processor/mg;
    return kvm_kind() . ", $cpus CPUs, " . ($model // 'unknown processor') . ', Linux ' . (POSIX::uname())[2];
}

sub slurp
{
    my ($path) = @_;
    open my $file, '<', $path or die "$path: $!\n";
    local $/;
    return scalar readline $file;
}

1;
