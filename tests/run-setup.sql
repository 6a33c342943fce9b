-- What tests/run.sh captures first: a few rows of several types, each type also as NULL.
SET timezone = 'UTC';
ALTER ROLE flow_capture SET timezone = 'UTC';
CREATE TYPE test.run_color AS ENUM ('red', 'green');
CREATE TABLE test.run_items (
    id       integer PRIMARY KEY,
    name     text NOT NULL,
    big      bigint,
    price    numeric(10, 2),
    ratio    double precision,
    active   boolean,
    born     date,
    at       timestamptz,
    token    uuid,
    blob     bytea,
    doc      jsonb,
    tags     text[],
    color    test.run_color
);
INSERT INTO test.run_items VALUES
    (1, 'plain', 9007199254740993, 10.50, 0.1, true, '2024-02-29', '2024-02-29 12:34:56.789+00',
     '6ba7b810-9dad-11d1-80b4-00c04fd430c8', '\x00ff', '{"a": [1, null]}', '{x,"y z"}', 'red'),
    (2, E'quote " backslash \\ tab \t snow ☃', -1, -0.01, -2.5, false, '1999-12-31', '1999-12-31 23:59:59+00',
     '00000000-0000-0000-0000-000000000000', '', '"text"', '{}', 'green'),
    (3, 'nulls', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
