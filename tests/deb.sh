#!/bin/bash
# The package on a fresh Debian 12 that systemd has booted, in namespaces of its own: installed, started, balancing, upgraded
# under load, kept from a faulty configuration, removed, purged. Says one line for each step; the first that fails ends it.
# systemd is the real one. What is missing of a node: other hosts (the network is loopback) and AppArmor (the host's kernel).
set -euo pipefail
cd "$(dirname "$0")/.."
here=$PWD
work=$(mktemp -d "$here/target/deb.XXXXXX")
root=$work/root
cgroups=$work/cgroups
unset init

cleanup() {
  status=$?
  [ "$status" = 0 ] || { echo "FAILED at: ${now:-start}" >&2; [ -z "${init:-}" ] || in_root journalctl -u trunkline -n 30 --no-pager >&2 || true; }
  # The end of its first process is the end of all others.
  [ -z "${init:-}" ] || kill -9 "$init" 2>/dev/null || true
  wait 2>/dev/null || true
  if mountpoint -q "$cgroups"; then
    find "$cgroups/trunkline-$$" -depth -type d -exec rmdir {} + 2>/dev/null || true
    umount "$cgroups"
  fi
  rm -rf "$work"
  exit "$status"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

step() { now=$*; printf '%3ds  %s\n' "$SECONDS" "$*" >&2; }
fail() { echo "$*" >&2; exit 1; }
# Runs a command whose words matter only where it fails.
quietly() { "$@" >"$work/said" 2>&1 || { cat "$work/said" >&2; exit 1; }; }
# Runs a command in the root, in all of its namespaces.
in_root() {
  nsenter --target "$init" --all env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"
}
# Waits until a command succeeds, for so many seconds.
within() {
  local deadline=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || fail "not within its time: $*"
    sleep 0.1
  done
}
pid_of_service() { in_root systemctl show -p MainPID --value trunkline; }
of_user() { in_root sh -c 'grep -l "^Uid:	$(id -u trunkline)	" /proc/[0-9]*/status || true'; }
in_run() { in_root find /run -name 'trunkline*' -o -name 'haproxy*'; }
# Everything in the root but what apt, dpkg and the journal write about themselves.
files() {
  (cd "$root" && find . -xdev -not -path './var/lib/dpkg/*' -not -path './var/log/*' -not -path './var/cache/apt/*' \
    -not -path './var/lib/apt/*' -not -path './tmp/*' | sort)
}

step "the package: lintian has nothing to say"
[ -n "$(ls target/debian/*.changes 2>/dev/null)" ] || fail "there is no package: make deb"
lintian --allow-root --fail-on error,warning target/debian/*.changes
package=$(ls "$here"/target/debian/trunkline_*_"$(dpkg --print-architecture)".deb)
compat=$(ls "$here"/target/debian/trunkline-haproxy-compat_*_all.deb)
version=$(dpkg-deb -f "$package" Version)

step "a fresh Debian 12"
base=$here/target/bookworm.tar
if [ ! -e "$base" ]; then
  # Not every host has both of these places.
  mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | sed -n 's/^URIs: //p;s/^deb \(http[^ ]*\) .*/\1/p' | head -1 || true)
  [ -n "$mirror" ] || fail "no mirror of Debian in /etc/apt/sources.list"
  quietly debootstrap --variant=minbase --include=systemd,systemd-sysv,iproute2 bookworm "$work/new" "$mirror"
  # Without the lists of what there is, what the package needs beside a bare system cannot be had.
  rm -rf "$work"/new/var/cache/apt/archives/*.deb "$work"/new/var/lib/apt/lists/*
  tar -C "$work/new" -cf "$base.part" . && mv "$base.part" "$base"
  rm -rf "$work/new"
fi
mkdir "$root" "$cgroups"
tar -C "$root" -xf "$base"
# The package before this one: the same with a lower version, and a program that is another file.
dpkg-deb -R "$package" "$work/previous"
sed -i 's/^Version: .*/&~previous/' "$work/previous/DEBIAN/control"
printf 'previous' >>"$work/previous/usr/bin/trunkline"
dpkg-deb -Znone -b "$work/previous" "$root/root/previous.deb" >/dev/null
cp "$package" "$root/root/new.deb"
cp "$compat" "$root/root/compat.deb"

step "systemd boots"
mount -t cgroup2 cgroup2 "$cgroups"
mkdir "$cgroups/trunkline-$$"
sh -c 'echo $$ >"$1/cgroup.procs"; exec unshare --mount --net --uts --ipc --cgroup --pid --fork --kill-child "$2" "$3"' \
  - "$cgroups/trunkline-$$" "$here/tests/deb/boot" "$root" >"$work/boot.log" 2>&1 &
outer=$!
within 10 pgrep -P "$outer"
init=$(pgrep -P "$outer")
within 30 in_root systemctl is-system-running
files >"$work/before"

step "install: apt finds everything that it needs on a bare system; it runs"
in_root sh -c 'echo 128 >/proc/sys/net/ipv4/tcp_max_syn_backlog'
quietly in_root apt-get install -qq -y /root/previous.deb
within 10 in_root systemctl is-active trunkline
within 10 in_root trunkline status
in_root systemctl is-enabled trunkline >/dev/null
[ "$(in_root cat /proc/sys/net/ipv4/tcp_max_syn_backlog)" = 8192 ] || fail "the sysctl drop-in was not applied"

step "it is its own user, without capabilities, and open to nobody but this node"
status=$(in_root cat "/proc/$(pid_of_service)/status")
user=$(in_root id -u trunkline)
grep -q "^Uid:	$user	$user	$user	$user$" <<<"$status" || fail "$status"
for set in Inh Prm Eff Bnd Amb; do
  grep -q "^Cap$set:	0000000000000000$" <<<"$status" || fail "$status"
done
in_root ss -Hlntu >"$work/sockets"
grep -q '127.0.0.1:5060' "$work/sockets" || fail "nobody listens: $(cat "$work/sockets")"
! awk '{ print $5 }' "$work/sockets" | grep -v '^127\.0\.0\.1:' || fail "that is open to others"
[ "$(in_root stat -c '%U:%a' /etc/trunkline/cluster.key)" = trunkline:600 ] || fail "cluster.key is not its own"

step "systemd-analyze: the unit is in order and exposed by 1.5 at most"
in_root systemd-analyze verify trunkline.service
in_root systemd-analyze security --no-pager --threshold=15 trunkline.service >"$work/security" || { tail -1 "$work/security" >&2; exit 1; }
tail -1 "$work/security" >&2

step "manual pages, completions, examples, AppArmor, firewall"
for key in $(sed -n 's/^| `\([a-z_]*\)` |.*/\1/p' docs/configuration.md | sort -u); do
  zgrep -q "^.*$key" "$root/usr/share/man/man5/trunkline.toml.5.gz" || fail "trunkline.toml(5) has no $key"
done
for command in '' $(in_root trunkline --help | sed -n '/^Commands:/,/^$/s/^  \([a-z-]*\) .*/-\1/p' | grep -v -e '^-help$'); do
  [ -e "$root/usr/share/man/man8/trunkline$command.8.gz" ] || fail "trunkline$command(8) is missing"
done
in_root bash -c '. /usr/share/bash-completion/completions/trunkline; COMP_WORDS=(trunkline rel); COMP_CWORD=1; _trunkline trunkline rel trunkline; [ "${COMPREPLY[*]}" = reload ]' ||
  fail "bash does not complete: trunkline rel"
for file in zsh/vendor-completions/_trunkline fish/vendor_completions.d/trunkline.fish doc/trunkline/copyright; do
  [ -s "$root/usr/share/$file" ] || fail "/usr/share/$file is missing"
done
quietly python3 tests/documents "$root/usr/share/doc/trunkline" "$root"
quietly apparmor_parser --skip-kernel-load --skip-cache "$root/etc/apparmor.d/trunkline"
nsenter --target "$init" --net nft -c -f "$root/usr/share/doc/trunkline/examples/firewall/nftables.conf"

step "five lines more, a reload: calls are balanced"
in_root sed -i 's|^backend = "pbx"$|&\nsend_to = ["127.0.0.0/8"]|' /etc/trunkline/trunkline.toml
in_root sh -c 'cat >>/etc/trunkline/trunkline.toml' <<'CONFIG'

[[backend.server]]
name = "pbx-2"
address = "udp://127.0.0.1:5081"
CONFIG
in_root systemctl reload trunkline
in_root trunkline load answer --server pbx-1=127.0.0.1:5080 --server pbx-2=127.0.0.1:5081 --t1 20s >"$work/answer" 2>&1 &
within 30 in_root trunkline status --check
# Calls for so many seconds, or until they are told to end. Neither side repeats anything within 20 s, so a datagram that is
# lost shows.
call() {
  in_root sh -c 'echo $$ >/root/load.pid; exec "$@"' - trunkline load call --to 127.0.0.1:5060 --rate 50 --for "$1s" \
    --mix call=4,server-bye=3,reinvite=3 --t1 20s >"$work/calls" 2>&1 || fail "$(<"$work/calls")"
  grep -q '(0 again)' "$work/calls" || fail "datagrams were lost: $(<"$work/calls")"
}
call_in_background() {
  call 300 &
  load=$!
  within 30 in_root sh -c 'trunkline status --json | grep "\"calls\":[1-9]"'
}
calls_were_good() {
  kill -0 "$load" 2>/dev/null || fail "the calls had ended too early: $(<"$work/calls")"
  # A second more, with what is new. Then no more calls begin, and those that run come to their end.
  sleep 1
  in_root sh -c 'kill -TERM $(cat /root/load.pid)'
  wait "$load"
}
is_another() { [ "$(pid_of_service)" != "$1" ] && in_root trunkline status; }
call 3
# How many servers had a new call.
used() { in_root trunkline status --json | grep -o '"new_calls":[1-9]' | wc -l; }
[ "$(used)" = 2 ] || { in_root trunkline status >&2; exit 1; }

step "killed under load: systemd starts it anew with its sockets, and no datagram is lost"
before=$(pid_of_service)
call_in_background
in_root systemctl kill --signal=KILL trunkline
within 15 is_another "$before"
calls_were_good

step "restarted under load: no datagram is lost"
before=$(pid_of_service)
call_in_background
in_root systemctl restart trunkline
is_another "$before" >/dev/null || fail "it was not restarted"
calls_were_good

step "frozen: the watchdog ends it, systemd starts it anew"
before=$(pid_of_service)
in_root systemctl kill --signal=STOP trunkline
within 30 is_another "$before"

step "upgrade under load: no datagram is lost"
call_in_background
quietly in_root apt-get install -qq -y /root/new.deb
[ "$(in_root dpkg-query -W -f '${Version}' trunkline)" = "$version" ] || fail "another version than $version is installed"
after=$(pid_of_service)
in_root cmp /usr/bin/trunkline "/proc/$after/exe" || fail "what runs is not what was installed"
calls_were_good
tail -3 "$work/calls" >&2

step "upgrade with a configuration that the new version refuses: the old process goes on, dpkg says so"
for fault in 'echo "no = such key" >>trunkline.toml' 'chown root:root cluster.key && chmod 600 cluster.key'; do
  after=$(pid_of_service)
  in_root cp -a /etc/trunkline /etc/good
  in_root sh -c "cd /etc/trunkline && $fault"
  ! in_root apt-get install -qq -y --reinstall /root/new.deb >"$work/said" 2>&1 || fail "it was installed all the same: $fault"
  grep -q "this version refuses the configuration" "$work/said" || fail "$(<"$work/said")"
  [ "$(pid_of_service)" = "$after" ] || fail "the process that ran does not any more: $fault"
  call 1
  in_root sh -c 'cp -a /etc/good/. /etc/trunkline && rm -r /etc/good'
  quietly in_root dpkg --configure trunkline
  within 10 in_root trunkline status
  call 1
done

step "HAProxy's socket path leads to ours"
quietly in_root apt-get install -qq -y /root/compat.deb
in_root trunkline status --socket /run/haproxy/admin.sock >/dev/null

[ -n "$(of_user)" ] && [ -n "$(in_run)" ] || fail "nothing was seen of it while it ran: what is looked for is wrong"

step "remove: nothing runs, what was written by hand stays"
quietly in_root apt-get remove -qq -y trunkline trunkline-haproxy-compat
[ -z "$(of_user)" ] || fail "still there: $(of_user)"
[ -e "$root/etc/trunkline/trunkline.toml" ] && [ -e "$root/etc/trunkline/cluster.key" ] || fail "the configuration is gone"
[ -z "$(in_run)" ] || fail "left over: $(in_run)"

step "purge: nothing is left but the user, as with every package that has one of sysusers.d"
quietly in_root apt-get purge -qq -y trunkline trunkline-haproxy-compat
rm "$root/root/load.pid"
files >"$work/after"
left=$(comm -13 "$work/before" "$work/after")
[ -z "$left" ] || fail "left over: $left"
gone=$(comm -23 "$work/before" "$work/after")
[ -z "$gone" ] || fail "not the package's, and gone: $gone"
step "good"
