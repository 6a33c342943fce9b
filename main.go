package main

import (
	_ "github.com/estuary/flow/go/protocols/capture"
	_ "github.com/estuary/flow/go/protocols/flow"
	_ "github.com/gogo/protobuf/jsonpb"
	_ "github.com/google/uuid"
	_ "github.com/jackc/pglogrepl"
	_ "github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/sirupsen/logrus"
	_ "gopkg.in/yaml.v3"
)

func main() {}
