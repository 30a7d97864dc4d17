#!/bin/sh
# Makes the files in this folder, which rcgen cannot make. With OpenSSL 3.0; the tests do not run it.
set -e
cd "$(dirname "$0")"
days="-days 36500"
key() { openssl genpkey -out key "$@" 2>/dev/null; }
ec() { key -algorithm EC -pkeyopt "ec_paramgen_curve:$1"; }
rsa() { key -algorithm RSA -pkeyopt "rsa_keygen_bits:$1"; }
printf 'basicConstraints=critical,CA:FALSE\nextendedKeyUsage=serverAuth\nsubjectAltName=DNS:localhost\n' > node
printf 'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n' > middle

# Makes a certificate for the latest key: NAME ISSUER [OPTION...]. The issuer is a file with certificate and
# key.
issue() {
    name=$1 issuer=$2
    shift 2
    openssl req -new -key key -subj "/CN=$name" -out request
    openssl x509 -req -in request -CA "$issuer" -CAkey "$issuer" -set_serial 7 $days "$@" -out certificate 2>/dev/null
    cat certificate key > "$name.pem"
}

# A node's chain with an intermediate certificate of the last key: NAME [OPTION...]
chain() {
    chain=$1
    shift
    issue intermediate authority.pem "$@"
    ec P-256
    issue leaf intermediate.pem -extfile node
    for file in leaf intermediate; do openssl x509 -in $file.pem; done > "$chain-chain.pem"
    cat key >> "$chain-chain.pem"
    rm leaf.pem intermediate.pem
}

ec P-256
openssl req -x509 -new -key key -subj /CN=authority $days -out certificate
cat certificate key > authority.pem
ec P-521; issue p521 authority.pem -extfile node
key -algorithm ED448; issue ed448 authority.pem -extfile node
rsa 1024; issue rsa1024 authority.pem -extfile node
ec P-256; issue version1 authority.pem
issue sha1 authority.pem -sha1 -extfile node
issue plain authority.pem -extfile node
openssl x509 -in plain.pem -trustout -out trusted.pem
openssl pkcs12 -export -in plain.pem -inkey plain.pem -passout pass: -out plain.p12
openssl crl2pkcs7 -nocrl -certfile plain.pem -out pkcs7.pem
mv request request.pem
openssl pkcs8 -topk8 -in key -passout pass:x -out encrypted-pkcs8.pem
openssl ec -in key -aes128 -passout pass:x -out encrypted-sec1.pem 2>/dev/null
rsa 2048
openssl rsa -in key -traditional -aes128 -passout pass:x -out encrypted-pkcs1.pem 2>/dev/null
ec P-521
openssl req -x509 -new -key key -subj /CN=p521-authority $days -out p521-authority.pem

rsa 1024; chain rsa1024 -extfile middle
ec P-521; chain p521 -extfile middle
ec P-256; chain sha1 -sha1 -extfile middle
ec P-256; chain version1

# Revocation lists: as openssl makes them unless it is told more, and without a number.
printf '[ca]\ndefault_ca=d\n[d]\ndatabase=index\ndefault_md=sha256\n[x]\nauthorityKeyIdentifier=keyid\n' > config
: > index
list() { openssl ca -config config -gencrl -keyfile authority.pem -cert authority.pem -crldays 36500 "$@" 2>/dev/null; }
list -out crl-version1.pem
list -crlexts x -out crl-without-number.pem

rm -f key certificate request node middle config index index.*
chmod 644 ./*.pem ./*.p12
