#!/bin/bash
# Starts MySQL in the way the official image does on data that is there: as root it goes over to the account mysql (999).
set -eu
case ${1:-} in -*) set -- mysqld "$@" ;; esac
if [ "${1:-}" != mysqld ]; then exec "$@"; fi
shift
if [ "$(id -u)" = 0 ]; then
    find /var/lib/mysql ! -user mysql -exec chown mysql: {} +
    exec setpriv --reuid=mysql --regid=mysql --init-groups -- "$0" mysqld "$@"
fi
# The programs were unpacked into a place of their own.
program=$(command -v mysqld)
exec mysqld "$@" --basedir="${program%/*/*}"
