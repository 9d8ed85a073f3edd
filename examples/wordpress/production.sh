# A real WordPress on a real MariaDB in one temporary directory, linked as `blog`, with posts at three moments. For sh, read
# by `run` and `run-compose`, which set: here, pando (the binary), app (the file that links it), clear_away (what takes
# the clones away); arguments are more for `pando serve`.

top=$(cd "$here/../.." && pwd)
[ -n "$pando" ] || pando=$top/target/release/pando
[ -x "$pando" ] || pando=$top/target/debug/pando
packages=${PANDO_EXAMPLES:-/var/cache/pando/examples}/wordpress
PATH=/usr/local/sbin:/usr/sbin:/sbin:$PATH

say() { printf '\n%s\n' "$*"; }
die() { printf 'wordpress: %s\n' "$*" >&2; exit 1; }
[ -x "$pando" ] || die 'no pando: cargo build'
[ -e "$packages/done" ] || die "no WordPress in $packages: scripts/setup test"

work=$(mktemp -d /var/tmp/pando-wordpress-XXXXXX)
chmod 755 "$work"
PANDO_HOME=$work/home
export PANDO_HOME
daemon='' server='' front=''
finish() {
    code=$?
    [ "$code" = 0 ] || { echo; tail -n 15 "$work"/*.log; }
    if [ -n "${KEEP:-}" ] && [ "$code" = 0 ]; then
        echo "left running in $work; PANDO_HOME=$PANDO_HOME; processes $daemon $server $front"
        exit 0
    fi
    [ -z "$front" ] || kill "$front" 2>/dev/null || true
    if [ -n "$daemon" ]; then
        clear_away
        "$pando" unlink blog >/dev/null 2>&1 || true
        kill "$daemon" 2>/dev/null && wait "$daemon" 2>/dev/null || true
    fi
    [ -z "$server" ] || { kill "$server" 2>/dev/null && wait "$server" 2>/dev/null || true; }
    mountpoint -q "$PANDO_HOME/pool" && umount "$PANDO_HOME/pool" || true
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

free_port() { php -r '$s = stream_socket_server("tcp://127.0.0.1:0"); echo explode(":", stream_socket_get_name($s, false))[1];'; }
password() { od -An -N12 -tx1 /dev/urandom | tr -d ' \n'; }
now() { date -u +%Y-%m-%dT%H:%M:%S.%6NZ; }
page() { curl -sS --max-time 20 --resolve "*:$BLOG_PORT:127.0.0.1" "http://$1.localhost:$BLOG_PORT$2"; }
shows() { page "$1" "$2" | grep -F "$3" >/dev/null || { page "$1" "$2" | head -n 40; die "$1$2 does not show: $3"; }; echo "  http://$1.localhost:$BLOG_PORT$2 shows: $3"; }
hides() { if page "$1" "$2" | grep -F "$3" >/dev/null; then die "$1$2 shows: $3"; fi; echo "  http://$1.localhost:$BLOG_PORT$2 knows nothing of: $3"; }

BLOG_DB_PORT=$(free_port) BLOG_PORT=$(free_port) BLOG_DB_PASSWORD=$(password) BLOG_SITE=$work/site
export BLOG_DB_PORT BLOG_PORT BLOG_DB_PASSWORD BLOG_SITE
web_password=$(password)

say '1. A small production: MariaDB, and WordPress in a directory'
mkdir "$work/db"
account=$(id -un)
if [ "$account" = root ]; then
    # No server of production runs as root.
    if id mysql >/dev/null 2>&1; then account=mysql; else account=nobody; fi
    chown "$account" "$work/db"
fi
mariadb-install-db --no-defaults --datadir="$work/db" --user="$account" --auth-root-authentication-method=socket \
    --skip-test-db >"$work/install.log" 2>&1
mariadbd --no-defaults --datadir="$work/db" --user="$account" --port="$BLOG_DB_PORT" --bind-address=127.0.0.1 \
    --socket="$work/db/socket" --log-bin --server-id=1 --binlog-format=ROW >"$work/mariadb.log" 2>&1 &
server=$!
sql() { mariadb --no-defaults --socket="$work/db/socket" --user="$(id -un)" --execute "$1"; }
[ "$(id -un)" = root ] || sql() { mariadb --no-defaults --socket="$work/db/socket" --user="$account" --execute "$1"; }
tries=0
until sql 'SELECT 1' >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ $tries -lt 150 ] && kill -0 $server 2>/dev/null || die 'MariaDB does not start'
    sleep 0.2
done
sql "CREATE DATABASE wordpress;
     CREATE USER web@'127.0.0.1' IDENTIFIED BY '$web_password'; GRANT ALL ON wordpress.* TO web@'127.0.0.1';
     CREATE USER pando@'127.0.0.1' IDENTIFIED BY '$BLOG_DB_PASSWORD'; GRANT ALL ON *.* TO pando@'127.0.0.1';"
cp -R "$packages/site" "$BLOG_SITE"
cat >"$BLOG_SITE/wp-config.php" <<END
<?php
/** Where production's database is. A clone's edits change these three lines, and nothing else. */
define( 'DB_HOST', '127.0.0.1:$BLOG_DB_PORT' );
define( 'DB_USER', 'web' );
define( 'DB_PASSWORD', '$web_password' );
define( 'DB_NAME', 'wordpress' );
define( 'DB_CHARSET', 'utf8mb4' );
define( 'DB_COLLATE', '' );
define( 'AUTH_KEY', '$(password)' );
define( 'SECURE_AUTH_KEY', '$(password)' );
define( 'LOGGED_IN_KEY', '$(password)' );
define( 'NONCE_KEY', '$(password)' );
define( 'DISABLE_WP_CRON', true );
define( 'WP_HTTP_BLOCK_EXTERNAL', true );
\$table_prefix = 'wp_';
if ( ! defined( 'ABSPATH' ) ) { define( 'ABSPATH', __DIR__ . '/' ); }
require_once ABSPATH . 'wp-settings.php';
END
HTTP_HOST=production.localhost:$BLOG_PORT
export HTTP_HOST
php "$here/install.php" "$BLOG_SITE" 'The Grove' "$(password)"
PRODUCTION=$BLOG_SITE CLONES=$PANDO_HOME/clones php -S "127.0.0.1:$BLOG_PORT" "$here/front.php" >"$work/front.log" 2>&1 &
front=$!
post() { php "$here/post.php" "$BLOG_SITE" "$1"; }
first=$(post 'Planting the first tree')
sleep 1
shows production / 'Planting the first tree'

say '2. Linked by one file'
"$pando" serve --listen 127.0.0.1:0 "$@" >"$work/daemon.log" 2>&1 &
daemon=$!
tries=0
until "$pando" ls >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ $tries -lt 150 ] || die 'the daemon does not start'
    sleep 0.2
done
"$pando" init --size 8G
"$pando" apply "$app"

say '3. Two more posts, each with an upload, and a moment between them'
second=$(post 'A second stem')
sleep 1.2
between=$(now)
sleep 1.2
third=$(post 'A third stem')
sleep 1.2
after=$(now)
