#!/bin/sh
# Fetches the pictures that the bundled model is trained on into DIR/photos and DIR/panoramas.
#     sh scripts/get_pictures.sh DIR
# Needs a Debian system (apt-get, dpkg; run `apt-get update` first), npm, and a Python with numpy,
# Pillow and OpenEXR (pip install OpenEXR). About 85 MB are fetched, 16 MB remain.
# Photographs: only the public-domain ones of the package, named in photographs.txt. Panoramas: CC0.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1/photos" "$1/panoramas" "$1/fetched"
cd "$1/fetched"
apt-get download endless-sky-data
dpkg -x endless-sky-data_*.deb deb
while read -r f; do
    cp "deb/$f" "../photos/$(basename "$(dirname "$f")")_$(basename "$f")"
done < "$here/photographs.txt"
npm pack --silent @pmndrs/assets@1.7.0
tar xzf pmndrs-assets-1.7.0.tgz
"${PYTHON:-python3}" "$here/bake_panoramas.py" package/hdri ../panoramas
cd .. && rm -r fetched
