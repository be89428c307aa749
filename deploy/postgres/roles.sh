#!/bin/bash
# Gives each service its corner of the database, and its roles the password that is in the
# environment. Postgres' image runs it once, on an empty volume; it can be run again at any time.
set -euo pipefail

sql() {
  psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username=postgres --dbname="$POSTGRES_DB" "$@"
}

for service in order inventory payment shipping; do
  password=${service^^}_PASSWORD
  sed "s/{service}/$service/g" /etc/switchback/bootstrap.sql | sql
  # Nobody logs in as <service>_ro before somebody gives that role a password.
  for role in owner app; do
    sql --set=role="${service}_$role" --set=password="${!password:?}" \
      <<<"alter role :\"role\" password :'password';"
  done
done
