#!/bin/sh
# Builds the smallest node, with a standard library of its own, and says how large it is. docs/small.md gives
# the figures, and what each step costs.
#
# usage: examples/tiny_node/smallest.sh [--target TARGET] [--steps] [--messages] [--measure]
#
#   --target    TARGET of rustc, of Linux, with glibc or musl. Default: this machine's, with glibc.
#               With musl, the program is static and contains libc.
#   --steps     Builds and prints every step on the way to the smallest node.
#   --messages  Keeps the messages of panics, without file and line.
#   --measure   Starts the node, calls it once from a peer, and prints its resident memory.
#
# Fails if the node without messages is larger than docs/small.md promises.
# `-Zbuild-std` is not stable: RUSTC_BOOTSTRAP=1 lets a stable toolchain do it. CARGO_TARGET_DIR is respected.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

fail() {
    echo "smallest.sh: $*" >&2
    exit 1
}

say() { echo "== $*" >&2; }

host=$(rustc -vV | sed -n 's/^host: //p')
target=$host steps=no messages=no measure=no
while [ $# -gt 0 ]; do
    case $1 in
    --target) [ $# -gt 1 ] || fail "--target needs a target"; target=$2; shift ;;
    --steps) steps=yes ;;
    --messages) messages=yes ;;
    --measure) measure=yes ;;
    -h | --help) sed -n '2,/^set -eu/s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) fail "unknown argument $1; see --help" ;;
    esac
    shift
done

# The bytes that the stripped program may have, and the KiB that it may hold after one call.
case $target in
*-linux-musl*) limit=1060000 ;;
*-linux-gnu*) limit=1000000 ;;
*) fail "$target is no target of Linux" ;;
esac
resident_limit=1228

sysroot=$(rustc --print sysroot)
lld=$sysroot/lib/rustlib/$host/bin/gcc-ld
[ -e "$sysroot/lib/rustlib/src/rust/library/Cargo.lock" ] ||
    fail "the sources of the standard library are missing: rustup component add rust-src"
[ -x "$lld/ld.lld" ] || fail "lld is missing, which rustup installs with rustc: $lld/ld.lld"

# The C compiler and linker of another target.
variable=$(echo "$target" | tr '-' '_')
upper=$(echo "$variable" | tr '[:lower:]' '[:upper:]')
compiler=
case $target in
*-linux-musl*)
    [ -e "$sysroot/lib/rustlib/$target/lib/self-contained/libc.a" ] ||
        fail "musl is missing: rustup target add $target"
    # musl-gcc knows only this machine's processor.
    [ "${target%%-*}" = "${host%%-*}" ] && compiler=musl-gcc || compiler=${target%%-*}-linux-gnu-gcc ;;
*) [ "$target" = "$host" ] || compiler=${target%%-*}-linux-gnu-gcc ;;
esac
if [ -n "$compiler" ]; then
    eval "compiler=\${CC_$variable:-$compiler}"
    command -v "$compiler" >/dev/null ||
        fail "no C compiler for $target: install $compiler (Debian: musl-tools, gcc-aarch64-linux-gnu), or set CC_$variable"
    export "CC_$variable=$compiler"
    # musl-gcc would add the musl of the system to the one that rustc brings.
    [ "$compiler" = musl-gcc ] || export "CARGO_TARGET_${upper}_LINKER=$compiler"
fi

[ $steps = no ] || [ -d "$sysroot/lib/rustlib/$target/lib" ] ||
    fail "the first steps need the standard library that comes with rustc: rustup target add $target"

program=${CARGO_TARGET_DIR:-$here/target}/$target/small-abort/tiny-node
export RUSTC_BOOTSTRAP=1

# Builds with what is set in RUSTFLAGS for all of the program, and the arguments that cargo gets; those after
# `--` are for the program alone. Prints the size.
build() {
    what=$1
    shift
    say "$what ($target)"
    (cd "$here" && cargo rustc --profile small-abort --no-default-features --target "$target" "$@") >&2
    printf '| %s | %s |\n' "$what" "$(stat -c %s "$program")"
}

tables="-C link-arg=-fuse-ld=lld -C link-arg=-B$lld
    -C link-arg=-Wl,-z,pack-relative-relocs,--no-eh-frame-hdr,-T,no-unwind.ld"
folded="-C link-arg=-Wl,--icf=all -C llvm-args=-enable-machine-outliner"
own_std="-Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size"

printf '| built with | bytes, %s |\n|---|---|\n' "$target"
# Lists of arguments are split at their spaces.
# shellcheck disable=SC2086
{
    if [ $steps = yes ]; then
        export RUSTFLAGS=
        build "small-abort" --quiet
        build "without tables for unwinding" --quiet -- $tables
        build "with a standard library of its own" $own_std -- $tables
        build "with equal code stored once" $own_std -- $tables $folded
    fi
    if [ $steps = yes ] || [ $messages = yes ]; then
        export RUSTFLAGS=-Zlocation-detail=none
        build "without the places of panics" $own_std -- $tables $folded
    fi
    if [ $messages = no ]; then
        export RUSTFLAGS="-Zunstable-options -Cpanic=immediate-abort"
        build "without the messages of panics" $own_std -- $tables $folded
    fi
}
size=$(stat -c %s "$program")

# Starts the node, calls it once, and prints what it holds.
measure() {
    say "the peer that calls the node"
    peers=${CARGO_TARGET_DIR:-$root/target}
    (cd "$root" && unset RUSTFLAGS && cargo build --example node --no-default-features) >&2
    peer=$peers/debug/examples/node
    dir=$(mktemp -d)
    runner=
    [ "${target%%-*}" = "${host%%-*}" ] || runner="qemu-${target%%-*} -L /usr/${target%%-*}-linux-gnu"
    "$peer" pki --dir "$dir" --client peer >/dev/null
    $runner "$program" 127.0.0.1:0 "$dir/ca.pem" "$dir/server.pem" "$dir/server.key" >"$dir/address" &
    node=$!
    trap 'kill $node 2>/dev/null || true; rm -r "$dir"' EXIT
    until address=$(grep : "$dir/address"); do
        kill -0 $node 2>/dev/null || fail "the node has ended"
        sleep 0.1
    done
    answer=$("$peer" call "$address" demo.echo --pki "$dir" --as peer --params hello)
    case $answer in *hello*) ;; *) fail "the node answered: $answer" ;; esac
    if [ -n "$runner" ]; then
        echo "The node has answered a call under $runner, whose memory says nothing of the node's."
        return
    fi
    resident=$(sed -n 's/^Rss: *\([0-9]*\) kB/\1/p' "/proc/$node/smaps_rollup")
    proportional=$(sed -n 's/^Pss: *\([0-9]*\) kB/\1/p' "/proc/$node/smaps_rollup")
    echo "After one call: $resident KiB resident, of which $proportional KiB are its share (Pss)."
    case $messages$target in
    no*-musl*) [ "$resident" -le $resident_limit ] || fail "that is more than $resident_limit KiB" ;;
    esac
}

[ $measure = no ] || measure
[ $messages = yes ] || [ "$size" -le $limit ] || fail "the node has $size bytes, which is more than $limit"
echo "$program has $size bytes; the limit without messages is $limit."
