#!/usr/bin/env bash
# arm64_root.sh FOLDER: unpacks Debian's Python for arm64 there, for `python -m release.wheels --arm-root FOLDER` under QEMU.
# Nothing of this machine's package system is changed: lists and archives lie in the folder too.
set -euo pipefail
mkdir -p "$1/apt/lists/partial" "$1/apt/cache/archives/partial" "$1/apt/debs" "$1/root"
folder=$(realpath "$1")
touch "$folder/apt/status"
options=(-o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o Dir::State::Lists="$folder/apt/lists"
  -o Dir::Cache="$folder/apt/cache" -o Dir::State::status="$folder/apt/status" -o Debug::NoLocking=1
  -o APT::Sandbox::User=root)
apt-get "${options[@]}" -qq update
version=$(apt-cache "${options[@]}" depends python3-minimal | sed -n 's/.*Depends: \(python3\.[0-9]*\)-minimal/\1/p' | head -n 1)
cd "$folder/apt/debs"
apt-get "${options[@]}" -qq download "$version" "$version-minimal" "lib$version-minimal" "lib$version-stdlib" \
  libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libffi8 libbz2-1.0 liblzma5
for package in *.deb; do dpkg -x "$package" "$folder/root"; done
# Where /lib is a link of the system, packages that say /lib and /usr/lib mean one folder.
if [[ -d $folder/root/lib && ! -L $folder/root/lib ]]; then
  cp -a "$folder/root/lib/." "$folder/root/usr/lib/" && rm -r "$folder/root/lib"
fi
[[ -e $folder/root/lib ]] || ln -s usr/lib "$folder/root/lib"
ln -sf "$version" "$folder/root/usr/bin/python3"
echo "$folder/root: $version"
