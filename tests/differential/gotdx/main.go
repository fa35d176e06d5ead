// gotdx asks google/go-tdx-guest for its opinion on TDX quotes, each with its own collateral, time and trust anchor.
//
// It reads a JSON list of cases from standard input and writes a JSON list of answers, in the same order, to standard
// output.  Nothing is fetched: what the library would ask Intel for is answered from the case.  Revocation is checked.
package main

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-tdx-guest/verify"
	"github.com/google/logger"
)

// evidence is one case: a quote with the documents of QuoteCollateralV3, judged at a time under a trust anchor.
type evidence struct {
	Quote      string     `json:"quote"` // hex
	Collateral collateral `json:"collateral"`
	At         int64      `json:"at"`     // Unix seconds
	Root       string     `json:"root"`   // DER, hex
	Rounds     int        `json:"rounds"` // how often to measure it
	Calls      int        `json:"calls"`  // verifications a round
}

type collateral struct {
	PckCrlIssuerChain     string `json:"pck_crl_issuer_chain"`
	RootCaCrl             string `json:"root_ca_crl"` // hex
	PckCrl                string `json:"pck_crl"`     // hex
	TcbInfoIssuerChain    string `json:"tcb_info_issuer_chain"`
	TcbInfo               string `json:"tcb_info"`
	TcbInfoSignature      string `json:"tcb_info_signature"` // hex
	QeIdentityIssuerChain string `json:"qe_identity_issuer_chain"`
	QeIdentity            string `json:"qe_identity"`
	QeIdentitySignature   string `json:"qe_identity_signature"` // hex
}

// answer is the library's opinion; CPU has the processor's nanoseconds for a verification, its share of garbage collection
// included, in each round.
type answer struct {
	Accepted bool    `json:"accepted"`
	Error    string  `json:"error"`
	CPU      []int64 `json:"cpu"`
}

type response struct {
	header map[string][]string
	body   []byte
}

// service stands for Intel's; it answers each address from the case's documents.
type service struct{ tcbInfo, qeIdentity, pckCrl, rootCrl response }

// Get implements trust.HTTPSGetter.
func (s *service) Get(address string) (map[string][]string, []byte, error) {
	chosen := s.rootCrl // at the root certificate's distribution point, whatever that is
	switch {
	case strings.Contains(address, "/tdx/certification/v4/tcb?"):
		chosen = s.tcbInfo
	case strings.Contains(address, "/tdx/certification/v4/qe/identity"):
		chosen = s.qeIdentity
	case strings.Contains(address, "/sgx/certification/v4/pckcrl?"):
		chosen = s.pckCrl
	}
	return chosen.header, chosen.body, nil
}

func newService(c collateral) (*service, error) {
	pckCrl, err := hex.DecodeString(c.PckCrl)
	if err != nil {
		return nil, err
	}
	rootCrl, err := hex.DecodeString(c.RootCaCrl)
	if err != nil {
		return nil, err
	}
	chain := func(name, pem string) map[string][]string {
		return map[string][]string{name: {url.QueryEscape(strings.TrimRight(pem, "\x00"))}}
	}
	return &service{
		tcbInfo: response{
			chain("Tcb-Info-Issuer-Chain", c.TcbInfoIssuerChain),
			fmt.Appendf(nil, `{"tcbInfo":%s,"signature":%q}`, c.TcbInfo, c.TcbInfoSignature),
		},
		qeIdentity: response{
			chain("Sgx-Enclave-Identity-Issuer-Chain", c.QeIdentityIssuerChain),
			fmt.Appendf(nil, `{"enclaveIdentity":%s,"signature":%q}`, c.QeIdentity, c.QeIdentitySignature),
		},
		pckCrl:  response{chain("Sgx-Pck-Crl-Issuer-Chain", c.PckCrlIssuerChain), pckCrl},
		rootCrl: response{nil, rootCrl},
	}, nil
}

func judge(quote []byte, documents *service, roots *x509.CertPool, at time.Time) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("panic: %v", cause)
		}
	}()
	now := verify.TimeSet{PckCertChain: at, TcbInfo: at, QeIdentity: at, PckCrl: at, RootCaCrl: at}
	options := verify.Options{CheckRevocations: true, GetCollateral: true, Getter: documents, Now: &now, TrustedRoots: roots}
	return verify.RawTdxQuote(quote, &options)
}

func (e evidence) opinion() (answer, error) {
	quote, err := hex.DecodeString(e.Quote)
	if err != nil {
		return answer{}, err
	}
	documents, err := newService(e.Collateral)
	if err != nil {
		return answer{}, err
	}
	der, err := hex.DecodeString(e.Root)
	if err != nil {
		return answer{}, err
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return answer{}, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	at := time.Unix(e.At, 0).UTC()
	given := answer{Accepted: true, CPU: make([]int64, 0, e.Rounds)}
	if err := judge(quote, documents, roots, at); err != nil {
		given.Accepted, given.Error = false, err.Error()
	}
	for range e.Rounds {
		started := processor()
		for range e.Calls {
			_ = judge(quote, documents, roots, at)
		}
		given.CPU = append(given.CPU, (processor()-started)/int64(e.Calls))
	}
	return given, nil
}

// processor is the time that this process has used so far, in nanoseconds.
func processor() int64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return usage.Utime.Nano() + usage.Stime.Nano()
}

func run(in io.Reader, out io.Writer) error {
	var cases []evidence
	if err := json.NewDecoder(in).Decode(&cases); err != nil {
		return fmt.Errorf("the cases cannot be read: %w", err)
	}
	answers := make([]answer, 0, len(cases))
	for number, each := range cases {
		given, err := each.opinion()
		if err != nil {
			return fmt.Errorf("case %d cannot be read: %w", number, err)
		}
		answers = append(answers, given)
	}
	return json.NewEncoder(out).Encode(answers)
}

func main() {
	logger.Init("gotdx", false, false, io.Discard)
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "gotdx:", err)
		os.Exit(2)
	}
}
