#!/usr/bin/env bash
# init-user-db.sh prepares a database for the tests: the restricted capture user, the schema
# `test`, the watermarks table and the publication.
#
# It runs as an init script of the postgres image (docker-compose.yaml mounts it), from
# tests/postgres.sh, and by hand: POSTGRES_USER and POSTGRES_DB name a superuser and the
# database, libpq's variables (PGHOST, PGPORT, PGPASSWORD) the way there. Running it again is fine.
set -euo pipefail

psql -v ON_ERROR_STOP=1 --no-psqlrc --quiet \
	--username "${POSTGRES_USER:-postgres}" --dbname "${POSTGRES_DB:-postgres}" <<'SQL'
SET client_min_messages = warning;
SELECT current_setting('server_version_num')::int >= 130000 AS has_via_root,
       current_setting('server_version_num')::int >= 140000 AS has_read_all,
       NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'flow_capture') AS no_role,
       NOT EXISTS (SELECT FROM pg_publication WHERE pubname = 'flow_publication') AS no_publication
\gset

\if :no_role
CREATE ROLE flow_capture WITH LOGIN REPLICATION PASSWORD 'secret1234';
\endif

CREATE SCHEMA IF NOT EXISTS test;
GRANT USAGE ON SCHEMA test TO flow_capture;
ALTER DEFAULT PRIVILEGES IN SCHEMA test GRANT SELECT ON TABLES TO flow_capture;
GRANT SELECT ON ALL TABLES IN SCHEMA test TO flow_capture;

\if :has_read_all
GRANT pg_read_all_data TO flow_capture;
\else
GRANT USAGE ON SCHEMA public TO flow_capture;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO flow_capture;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO flow_capture;
\endif

CREATE TABLE IF NOT EXISTS public.flow_watermarks (slot TEXT PRIMARY KEY, watermark TEXT);
GRANT SELECT, INSERT, UPDATE, DELETE ON public.flow_watermarks TO flow_capture;

\if :no_publication
CREATE PUBLICATION flow_publication FOR ALL TABLES;
\endif
\if :has_via_root
ALTER PUBLICATION flow_publication SET (publish_via_partition_root = true);
\endif
SQL
