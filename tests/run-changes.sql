-- What happens between the two captures of tests/run.sh. Each key changes once: the runtime may join the changes
-- of a key within one of its transactions.
BEGIN;
UPDATE test.run_items SET name = 'changed', price = 99.99 WHERE id = 1;
DELETE FROM test.run_items WHERE id = 2;
INSERT INTO test.run_items (id, name, tags, color) VALUES (4, 'new', '{n}', 'green');
COMMIT;
UPDATE test.run_items SET big = 3, doc = '{"n": 1.5}' WHERE id = 3;
