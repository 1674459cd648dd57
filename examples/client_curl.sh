#!/bin/sh
# An image file to tokens, and tokens back to a PNG, from any machine with curl.
#   client_curl.sh photo.jpg [http://localhost:8000]
set -eu
server=${2:-http://localhost:8000}
curl --fail-with-body --silent --show-error --data-binary "@$1" "$server/encode" >tokens.json
curl --fail-with-body --silent --show-error --data-binary @tokens.json "$server/decode" >reconstruction.png
echo "tokens.json reconstruction.png"
