# The connector's image: a static binary, the CA certificates it checks servers by, no root.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY . .
# No separate step fetches the modules: go build fetches just those it needs.
RUN CGO_ENABLED=0 go build -tags nozstd -trimpath -buildvcs=false -o /connector/source-postgres .

FROM debian:bookworm-slim
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /connector/source-postgres /connector/source-postgres
# The runtime starts an image only if it says that it is a capture.
LABEL FLOW_RUNTIME_PROTOCOL=capture
LABEL CONNECTOR_PROTOCOL=flow-capture
USER 65532:65532
ENTRYPOINT ["/connector/source-postgres"]
