// config_access.go owns how the settings say that the server is reached and logged in to, where that is not by an address and a
// password alone: an SSH server with our key and its own, a token of a cloud's.
// Invariant: no part of a secret is in a fault.

package main

import (
	"encoding/base64"
	"encoding/pem"
	"errors"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	awscredentials "github.com/aws/smithy-go/aws-http-auth/credentials"
	"golang.org/x/crypto/ssh"
)

// sshSettings are networkTunnel.sshForwarding.
type sshSettings struct {
	user     string
	host     string // IPv6 without brackets
	port     uint16
	key      ssh.Signer
	hostKeys sshHostKeys
}

func (s *sshSettings) address() string { return net.JoinHostPort(s.host, strconv.Itoa(int(s.port))) }

// where is the SSH server as an operator wrote it.
func (s *sshSettings) where() string { return "ssh://" + s.user + "@" + s.address() }

// sshHostKeys are what hostKey pins.
type sshHostKeys struct {
	keys         []ssh.PublicKey
	fingerprints []string // as ssh.FingerprintSHA256 has them
}

// none reports whether nothing is pinned, and so any key is good.
func (h sshHostKeys) none() bool { return len(h.keys)+len(h.fingerprints) == 0 }

func (h sshHostKeys) match(key ssh.PublicKey) bool {
	return h.none() || slices.Contains(h.fingerprints, ssh.FingerprintSHA256(key)) ||
		slices.ContainsFunc(h.keys, func(pinned ssh.PublicKey) bool { return string(pinned.Marshal()) == string(key.Marshal()) })
}

func (h sshHostKeys) String() string {
	shown := slices.Clone(h.fingerprints)
	for _, key := range h.keys {
		shown = append(shown, showHostKey(key))
	}
	return strings.Join(shown, " or ")
}

// showHostKey is a key's fingerprint and type.
func showHostKey(key ssh.PublicKey) string {
	return ssh.FingerprintSHA256(key) + " (" + key.Type() + ")"
}

// parseSSH reads networkTunnel.sshForwarding; nil is no tunnel. Without an endpoint what else is there is of no effect, as
// forms leave it behind.
func parseSSH(forwarding *object) *sshSettings {
	const want = "write it as ssh://user@host or ssh://user@host:port"
	found := forwarding.found
	endpoint := strings.TrimSpace(forwarding.text("sshEndpoint"))
	key, pinned := forwarding.text("privateKey"), forwarding.text("hostKey")
	if endpoint == "" {
		return nil
	}
	s := &sshSettings{}
	refuse := func(format string, args ...any) {
		found.add("networkTunnel.sshForwarding.sshEndpoint "+format, args...)
	}
	scheme, rest, ok := strings.Cut(endpoint, "://")
	at := strings.LastIndexByte(rest, '@')
	switch {
	case !ok || !strings.EqualFold(scheme, "ssh"):
		refuse("does not begin with ssh://: %s", want)
	case at <= 0:
		refuse("names no user to log in to the SSH server as: %s", want)
	case strings.Contains(rest[:at], ":"): // of a password, which is not shown
		refuse("has more than a user before the @: %s, and put the key into privateKey, the only way to log in", want)
	default:
		s.user = rest[:at]
		if user, err := url.PathUnescape(s.user); err == nil {
			s.user = user
		}
		address := strings.TrimSuffix(rest[at+1:], "/")
		host, portText, ok := splitAddress(address, defaultSSHPort)
		port, err := strconv.ParseUint(portText, 10, 16)
		switch {
		case !ok || strings.ContainsAny(host, "/?#, \t\r\n"):
			refuse("has %q behind the @, which is no host or host:port: %s", address, want)
		case err != nil || port == 0:
			refuse("has no valid port in %q: it must be a number from 1 to 65535", address)
		}
		s.host, s.port = host, uint16(port)
	}
	s.key = parsePrivateKey(key, forwarding)
	s.hostKeys = parseHostKeys(pinned, found)
	return s
}

// defaultSSHPort is what sshEndpoint means without a port.
const defaultSSHPort = "22"

// parsePrivateKey reads a private key in a form that OpenSSH writes, now or once. No part of it is in a fault.
func parsePrivateKey(text string, forwarding *object) ssh.Signer {
	const name = "networkTunnel.sshForwarding.privateKey "
	const want = "paste the whole text of the private key's file, from its BEGIN line to its END line"
	found := forwarding.found
	if strings.TrimSpace(text) == "" {
		if !forwarding.faulty["privateKey"] {
			found.add(name+"is missing: %s", want)
		}
		return nil
	}
	blocks := pastedPEM(text)
	var block *pem.Block
	for rest := []byte(blocks); ; {
		if block, rest = pem.Decode(rest); block == nil || strings.Contains(block.Type, "PRIVATE KEY") {
			break
		}
	}
	encrypted := func() {
		found.add(name + "is protected by a passphrase, which cannot be entered here: give it none (ssh-keygen -p -N '' -f FILE, on a copy), " +
			"or make a key for this capture (ssh-keygen -t ed25519 -N '' -f FILE)")
	}
	switch {
	case block == nil && strings.Contains(text, "PuTTY-User-Key-File"):
		found.add(name + "is in PuTTY's format: convert it (puttygen KEY.ppk -O private-openssh -o FILE) and paste what is in FILE")
		return nil
	case block == nil && (strings.Contains(blocks, "PUBLIC KEY") || isPublicKey(text)):
		found.add(name+"is a public key: %s. The public one belongs into authorized_keys on the SSH server", want)
		return nil
	case block == nil && strings.Contains(text, "PRIVATE KEY"):
		found.add(name+"is cut short, or damaged: %s", want)
		return nil
	case block == nil:
		found.add(name+"is no private key: %s", want)
		return nil
	case block.Type == "ENCRYPTED PRIVATE KEY":
		encrypted()
		return nil
	}
	key, err := ssh.ParsePrivateKey(pem.EncodeToMemory(block))
	if _, ok := errors.AsType[*ssh.PassphraseMissingError](err); ok {
		encrypted()
		return nil
	} else if err != nil {
		found.add(name+"cannot be read as the %s that its first line says it is, or is of a type that is not supported: %s, "+
			"of type Ed25519, ECDSA or RSA", block.Type, want)
		return nil
	}
	return key
}

func isPublicKey(text string) bool {
	_, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text))
	return err == nil
}

// parseHostKeys reads fingerprints, or lines as in known_hosts, as ssh-keyscan, ssh-keygen -l and the server's own key files
// have them. The names of hosts in them are not looked at: there is one host.
func parseHostKeys(text string, found *faults) (h sshHostKeys) {
	const name = "networkTunnel.sshForwarding.hostKey "
	for line := range strings.Lines(strings.ReplaceAll(text, `\n`, "\n")) {
		line = strings.TrimSpace(line)
		fields := strings.Fields(line)
		fingerprint := slices.IndexFunc(fields, func(f string) bool { return strings.HasPrefix(f, "SHA256:") })
		switch {
		case line == "" || line[0] == '#':
		case fingerprint >= 0:
			digest := strings.TrimRight(strings.TrimPrefix(fields[fingerprint], "SHA256:"), "=")
			if raw, err := base64.RawStdEncoding.DecodeString(digest); err != nil || len(raw) != 32 {
				found.add(name+"%q is no SHA256 fingerprint: it has 43 characters behind SHA256:", fields[fingerprint])
				continue
			}
			h.fingerprints = append(h.fingerprints, "SHA256:"+digest)
		case fields[0] == "@cert-authority", fields[0] == "@revoked":
			found.add(name+"has a line marked %s, which is not supported: give the line, or the SHA256 fingerprint, of the server's own key",
				fields[0])
		default:
			key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
			if err != nil {
				_, _, key, _, _, err = ssh.ParseKnownHosts([]byte(line))
			}
			if err != nil {
				found.add(name + "is no key and no fingerprint: set it to a line of what `ssh-keyscan HOST` prints, such as " +
					"`bastion.example.com ssh-ed25519 AAAA…`, or to a fingerprint as SHA256:…")
				continue
			}
			if !slices.ContainsFunc(sshHostKeyTypes, func(ofType []string) bool { return slices.Contains(ofType, key.Type()) }) {
				found.add(name+"has a key of type %s, which is not supported: give one of type Ed25519, ECDSA or RSA", key.Type())
				continue
			}
			h.keys = append(h.keys, key)
		}
	}
	return h
}

// sshHostKeyTypes are the algorithms of each type of host key.
var sshHostKeyTypes = [][]string{
	{ssh.KeyAlgoED25519},
	{ssh.KeyAlgoECDSA256},
	{ssh.KeyAlgoECDSA384},
	{ssh.KeyAlgoECDSA521},
	{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSA},
}

// The kinds of credentials, by auth_type.
const (
	authPassword = "UserPassword"
	authAWS      = "AWSIAM"
	authGCP      = "GCPIAM"
	authAzure    = "AzureIAM"
)

// iamLogin is how a session proves its identity where that is not by a password of its role.
type iamLogin struct {
	kind  string // authAWS, authGCP or authAzure
	token string // of GCP and Azure: the password as it is

	region string // of AWS, like the key that signs
	key    awscredentials.Credentials

	worked atomic.Bool // a login has succeeded: one that is refused later has met its token's end; stored and loaded by anyone
}

// parseIAM reads the credentials of a kind other than a password.
func parseIAM(kind string, o *object) *iamLogin {
	minted := "the Flow runtime puts it there for each session, where credentials name "
	l := &iamLogin{kind: kind}
	switch kind {
	case authAWS:
		minted += "aws_region and aws_role_arn; without the runtime, set it yourself"
		l.region = strings.TrimSpace(o.required("aws_region", "set it to the region of the database instance, such as eu-central-1"))
		l.key = awscredentials.Credentials{
			AccessKeyID:     o.required("aws_access_key_id", minted),
			SecretAccessKey: o.required("aws_secret_access_key", minted),
			SessionToken:    o.text("aws_session_token"),
		}
	case authGCP:
		l.token = o.required("gcp_access_token", minted+"gcp_service_account_to_impersonate and gcp_workload_identity_pool_audience; "+
			"without the runtime, set it yourself (gcloud sql generate-login-token)")
	case authAzure:
		l.token = o.required("azure_access_token", minted+"azure_client_id and azure_tenant_id; without the runtime, set it yourself "+
			"(az account get-access-token --resource-type oss-rdbms)")
	}
	return l
}

// requireTLS raises an sslmode that may send the token in the clear.
func (l *iamLogin) requireTLS(sslmode, channelBinding string, found *faults) string {
	if channelBinding == "require" {
		found.add("advanced.channel_binding require is not possible with credentials.auth_type %s, whose token the server wants as it "+
			"is: set it to prefer", l.kind)
	}
	switch sslmode {
	case "disable":
		found.add("advanced.sslmode disable is not possible with credentials.auth_type %s, which needs TLS: set it to require or "+
			"verify-full", l.kind)
	case "allow", "prefer":
		return "require"
	}
	return sslmode
}
