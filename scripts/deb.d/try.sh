# shellcheck shell=bash
# Installs, upgrades, removes and purges the package in a small Debian, and checks what each leaves behind.
# Sourced by scripts/deb.

: "${name:?}" "${dist:?}" "${deb:?}" "${version:?}" "${architecture:?}" "${target:?}" "${tools:?}"

step 'a small Debian to test the package in'
need_debian_root
debian=$(mktemp -d "$target/deb-try.XXXXXX")
clean_up_at_the_end "rm -rf '$debian'"
tar -C "$debian" -xf "$tools/debian/root.tar"
mkdir -p "$debian/dev"
mknod -m 666 "$debian/dev/null" c 1 3

inside() {
    chroot "$debian" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C "$@"
}
expect() {
    local what=$1
    shift
    if "$@"; then echo "$what: yes"; else fail "$what: no" "see what scripts/deb.d does"; fi
}
not() { ! "$@"; }
files_of_the_system() {
    (cd "$debian" && find . \( -path ./proc -o -path ./var/lib/dpkg -o -path ./var/log -o -path ./var/cache -o -path ./root/debs \) -prune -o -print | LC_ALL=C sort)
}
has_user() { inside getent passwd "$name" >/dev/null; }
setting_is_kept() { grep -qx 'ENVIRONMENT_PREFIX=of-the-administrator' "$debian/etc/default/$name"; }
state() { inside dpkg-query --show --showformat '${db:Status-Status}' "$name" 2>/dev/null || echo none; }

mkdir "$debian/root/debs"
cp "$deb" "$debian/root/debs/first.deb"
package "$version-2" "$debian/root/debs/second.deb"
before=$(files_of_the_system)

step 'install'
inside dpkg --install /root/debs/first.deb
expect 'it is installed' test "$(state)" = installed
expect 'the binary runs' inside "$name" --version
expect 'the user is there' has_user
expect 'the settings are for root alone' test "$(stat --format '%a %U' "$debian/etc/default/$name")" = '640 root'
expect 'every file is as it was packed' inside dpkg --verify "$name"
expect 'a faulty configuration is reported' not inside "$name"

step 'upgrade'
echo 'ENVIRONMENT_PREFIX=of-the-administrator' >>"$debian/etc/default/$name"
inside dpkg --install /root/debs/second.deb
expect 'the new version is installed' test "$(inside dpkg-query --show --showformat '${Version}' "$name")" = "$version-2"
expect 'the settings of the administrator are kept' setting_is_kept
expect 'and nothing lies beside them' test ! -e "$debian/etc/default/$name.dpkg-dist"

step 'remove'
inside dpkg --remove "$name"
expect 'the binary is gone' test ! -e "$debian/usr/bin/$name"
expect 'the settings of the administrator are kept' setting_is_kept

step 'install again, and purge'
inside dpkg --install /root/debs/second.deb
expect 'the settings of the administrator are taken up again' setting_is_kept
inside dpkg --purge "$name"
expect 'the user is gone' not has_user
expect 'the package is not known any more' test "$(state)" != installed
after=$(files_of_the_system)
# The backups that adduser makes at each change.
left=$(diff <(echo "$before") <(echo "$after") | sed -n 's/^> //p' | grep -vxE '\./etc/(passwd|group|shadow|gshadow|subuid|subgid)-' || true)
expect "nothing is left ($left)" test -z "$left"
