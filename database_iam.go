// database_iam.go owns the login with a token of a cloud provider's (credentials of type AWSIAM, GCPIAM and AzureIAM). The runtime mints
// what it is made from for each session and puts it into the config beside what the user wrote.
//
// Invariants: a token goes over TLS only; one of AWS is signed anew for each connection, since it lives for 15 minutes; and no
// token, nor what it is made from, is in an error or a log.

package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/aws/smithy-go/aws-http-auth/sigv4"
	awssignature "github.com/aws/smithy-go/aws-http-auth/v4"
)

// password is what a connection to the settings' server that is made now logs in with.
func (l *iamLogin) password(s *settings) string {
	if l.kind == authAWS {
		return l.sign(s.host, s.port, s.user, signedAt())
	}
	return l.token
}

// signedAt is when a token is signed: now. A variable for tests.
var signedAt = time.Now

// awsTokenLife is how long RDS takes a token, and the longest that it allows.
const awsTokenLife = 15 * time.Minute

// sign makes an RDS authentication token: the URL, without its scheme, of a presigned request to connect.
func (l *iamLogin) sign(host string, port uint16, user string, now time.Time) string {
	request := &http.Request{
		Method: http.MethodGet,
		URL: &url.URL{
			Scheme: "https", Path: "/",
			Host: net.JoinHostPort(strings.ToLower(strings.TrimSuffix(host, ".")), strconv.Itoa(int(port))),
			RawQuery: url.Values{
				"Action": {"connect"}, "DBUser": {user}, "X-Amz-Expires": {strconv.Itoa(int(awsTokenLife.Seconds()))},
			}.Encode(),
		},
		Header: http.Header{},
	}
	noBody := sha256.Sum256(nil)
	err := sigv4.New().SignRequest(&sigv4.SignRequestInput{
		Request: request, PayloadHash: noBody[:], Credentials: l.key, Service: "rds-db", Region: l.region, Time: now.UTC(),
		SignatureType: awssignature.SignatureTypeQueryString,
	})
	assert(err == nil, "a request without a body can be signed")
	return strings.TrimPrefix(request.URL.String(), "https://")
}

// refused reports whether err is a login that the server refused.
func (l *iamLogin) refused(err error) bool {
	return l != nil && strings.HasPrefix(sqlState(err), codesLogin)
}

// remedy is what to do about a login that was refused.
func (l *iamLogin) remedy(s *settings) string {
	if l.worked.Load() {
		return fmt.Sprintf("Earlier logins of this session succeeded: its token (credentials.auth_type %s) has expired, or was revoked. The "+
			"session ends; the runtime begins the next one with a new token.", l.kind)
	}
	switch l.kind {
	case authAWS:
		return advised("Check that IAM authentication is enabled for the instance; that the role has run GRANT rds_iam TO {user}; that "+
			"`credentials.aws_region` is the instance's region and `address` its own endpoint, not another name for it; and that the policy of "+
			"`credentials.aws_role_arn` allows rds-db:connect for this database user.", s)
	case authGCP:
		return "Check that the flag cloudsql.iam_authentication is on, that `user` is the service account's address without " +
			".gserviceaccount.com, added to the instance as an IAM user, and that the account has roles/cloudsql.instanceUser."
	}
	return "Check that Microsoft Entra authentication is enabled for the server, and that `user` is the role made for the application " +
		"(SELECT * FROM pgaadauth_create_principal(…))."
}

// tokenExpired reports whether err is a login refused in a session whose logins succeeded before.
func tokenExpired(err error) bool {
	failure, ok := errors.AsType[*connectFailure](err)
	return ok && failure.expired
}
