// Package main: the core of a real Vault (1.13, under the MPL), in memory, with what the broker uses of it: the transit
// engine and the login with ServiceAccount tokens. It listens on loopback, prints its address and root token as one line of JSON,
// and ends when its standard input does.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	kubernetes "github.com/hashicorp/vault-plugin-auth-kubernetes"
	"github.com/hashicorp/vault/builtin/logical/transit"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

// builtins is what the core asks for what was compiled in.
type builtins struct{}

func kind(name string) (consts.PluginType, bool) {
	found, known := map[string]consts.PluginType{"transit": consts.PluginTypeSecrets, "kubernetes": consts.PluginTypeCredential}[name]
	return found, known
}

func (builtins) Contains(name string, wanted consts.PluginType) bool {
	found, known := kind(name)
	return known && found == wanted
}

func (b builtins) Get(name string, wanted consts.PluginType) (func() (interface{}, error), bool) {
	return func() (interface{}, error) { return nil, nil }, b.Contains(name, wanted)
}

func (b builtins) Keys(wanted consts.PluginType) []string {
	names := []string{}
	for _, name := range []string{"transit", "kubernetes"} {
		if b.Contains(name, wanted) {
			names = append(names, name)
		}
	}
	return names
}

func (b builtins) DeprecationStatus(name string, wanted consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, b.Contains(name, wanted)
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	logger := hclog.New(&hclog.LoggerOptions{Level: hclog.Error, Output: os.Stderr})
	storage, err := inmem.NewInmem(nil, logger)
	check(err)
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical:           storage,
		Logger:             logger,
		DisableMlock:       true,
		BuiltinRegistry:    builtins{},
		LogicalBackends:    map[string]logical.Factory{"kv": vault.PassthroughBackendFactory, "transit": transit.Factory},
		CredentialBackends: map[string]logical.Factory{"kubernetes": kubernetes.Factory},
	})
	check(err)
	made, err := core.Initialize(context.Background(), &vault.InitParams{
		BarrierConfig:  &vault.SealConfig{SecretShares: 1, SecretThreshold: 1},
		RecoveryConfig: &vault.SealConfig{},
	})
	check(err)
	_, err = core.Unseal(made.SecretShares[0])
	check(err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	server := &http.Server{
		Handler:           vaulthttp.Handler.Handler(&vault.HandlerProperties{Core: core}),
		ReadHeaderTimeout: 10 * time.Second,
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = server.Close()
	}()
	check(json.NewEncoder(os.Stdout).Encode(map[string]string{"address": listener.Addr().String(), "token": made.RootToken}))
	if err := server.Serve(listener); err != http.ErrServerClosed {
		check(err)
	}
}
