// Command go_tessera writes a C2SP tiled log with Tessera, a foreign implementation, for ours to verify.
//
// Usage: go_tessera DIR SKEY... < ENTRIES
//
// Every line of standard input is one entry, in base64. The first signing key names the log; the others sign its checkpoints as well. With the
// environment variable WITNESS_POLICY, a file of Sigsum's policy syntax, no checkpoint is published that its witnesses did not cosign.
package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"log"
	"os"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 3 {
		log.Fatal("usage: go_tessera DIR SKEY... < ENTRIES")
	}
	signers := make([]note.Signer, len(os.Args)-2)
	for i, text := range os.Args[2:] {
		signer, err := note.NewSigner(text)
		check(err)
		signers[i] = signer
	}
	ctx := context.Background()
	driver, err := posix.New(ctx, posix.Config{Path: os.Args[1]})
	check(err)
	options := tessera.NewAppendOptions().
		WithCheckpointSigner(signers[0], signers[1:]...).
		WithBatching(1000, 20*time.Millisecond).
		WithCheckpointInterval(100 * time.Millisecond)
	if name := os.Getenv("WITNESS_POLICY"); name != "" {
		policy, err := os.ReadFile(name)
		check(err)
		witnesses, err := tessera.NewWitnessGroupFromPolicy(policy)
		check(err)
		options.WithWitnesses(witnesses, &tessera.WitnessOptions{Timeout: 10 * time.Second})
	}
	appender, shutdown, reader, err := tessera.NewAppender(ctx, driver, options)
	check(err)
	var futures []tessera.IndexFuture
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		entry, err := base64.StdEncoding.DecodeString(lines.Text())
		check(err)
		futures = append(futures, appender.Add(ctx, tessera.NewEntry(entry)))
	}
	check(lines.Err())
	await := tessera.NewPublicationAwaiter(ctx, reader.ReadCheckpoint, 50*time.Millisecond)
	for _, future := range futures {
		_, _, err := await.Await(ctx, future)
		check(err)
	}
	check(shutdown(ctx))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
