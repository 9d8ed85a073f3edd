#!/bin/bash
# Starts MariaDB in the way the official image does: MARIADB_ROOT_PASSWORD (or MARIADB_ROOT_PASSWORD_FILE),
# MARIADB_ALLOW_EMPTY_ROOT_PASSWORD, MARIADB_ROOT_HOST, MARIADB_DATABASE, MARIADB_USER, MARIADB_PASSWORD, all of them
# also as MYSQL_…, and what lies in /docker-entrypoint-initdb.d; as root it goes over to the account mysql (999).
set -eu
case ${1:-} in -*) set -- mariadbd "$@" ;; esac
if [ "${1:-}" != mariadbd ] && [ "${1:-}" != mysqld ]; then exec "$@"; fi
shift
set -- mariadbd "$@"

# The directory that the arguments and option files say.
DATADIR=$(mariadbd --verbose --help "${@:2}" 2>/dev/null | sed -n 's/^datadir  *//p')
DATADIR=${DATADIR:-/var/lib/mysql/}
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$DATADIR"
    find "$DATADIR" ! -user mysql -exec chown mysql: {} +
    exec setpriv --reuid=mysql --regid=mysql --init-groups -- "$0" "$@"
fi

of() {
    local mariadb="MARIADB_$1" mysql="MYSQL_$1"
    printf '%s' "${!mariadb:-${!mysql:-}}"
}
if [ ! -d "$DATADIR/mysql" ]; then
    password=$(of ROOT_PASSWORD)
    file=$(of ROOT_PASSWORD_FILE)
    if [ -n "$file" ]; then password=$(cat "$file"); fi
    if [ -z "$password" ] && [ -z "$(of ALLOW_EMPTY_ROOT_PASSWORD)$(of ALLOW_EMPTY_PASSWORD)" ]; then
        echo 'Error: Database is uninitialized and password option is not specified.' >&2
        exit 1
    fi
    database=$(of DATABASE) user=$(of USER) host=$(of ROOT_HOST)
    mariadb-install-db --datadir="$DATADIR" --rpm --auth-root-authentication-method=normal --skip-test-db "${@:2}"
    "$@" --skip-networking --socket=/run/mysqld/mysqld.sock &
    server=$!
    root() { mariadb --protocol=socket --socket=/run/mysqld/mysqld.sock -uroot "$@"; }
    for _ in {1..300}; do
        if root -e 'SELECT 1' >/dev/null 2>&1; then break; fi
        sleep 0.1
    done
    sql="SET @@SESSION.SQL_LOG_BIN=0; CREATE USER IF NOT EXISTS root@'${host:-%}' IDENTIFIED BY '${password//\'/\'\'}';"
    sql+=" GRANT ALL ON *.* TO root@'${host:-%}' WITH GRANT OPTION;"
    sql+=" SET PASSWORD FOR root@localhost = PASSWORD('${password//\'/\'\'}');"
    if [ -n "$database" ]; then sql+=" CREATE DATABASE IF NOT EXISTS \`$database\`;"; fi
    if [ -n "$user" ]; then
        own=$(of PASSWORD)
        sql+=" CREATE USER '$user'@'%' IDENTIFIED BY '${own//\'/\'\'}';"
        if [ -n "$database" ]; then sql+=" GRANT ALL ON \`$database\`.* TO '$user'@'%';"; fi
    fi
    root -e "$sql"
    export MYSQL_PWD=$password
    for file in /docker-entrypoint-initdb.d/*; do
        case $file in
            *.sh) . "$file" ;;
            *.sql) root ${database:+"$database"} <"$file" ;;
            *.sql.gz) gunzip -c "$file" | root ${database:+"$database"} ;;
        esac
    done
    unset MYSQL_PWD
    kill "$server"
    wait "$server"
fi
exec "$@"
