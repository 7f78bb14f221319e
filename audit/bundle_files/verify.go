// Command verify checks this bundle with Go's own transparency-log code: the log's signature on the checkpoint, and that every record is in the
// signed tree.
//
// Usage: go run . VKEY   (VKEY is the log's public key, name+id+base64; get it from the log's owner, not from this bundle)
package main

import (
	"encoding/base64"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: go run . VKEY")
	}
	verifier, err := note.NewVerifier(os.Args[1])
	check(err, "key")
	data, err := os.ReadFile("checkpoint")
	check(err, "checkpoint")
	opened, err := note.Open(data, note.VerifierList(verifier))
	check(err, "checkpoint")
	head := strings.Split(opened.Text, "\n")
	if len(head) < 4 || head[0] != verifier.Name() {
		log.Fatal("FAILED: the checkpoint is of another log than the key")
	}
	size, err := strconv.ParseInt(head[1], 10, 64)
	check(err, "size")
	root := hashOf(head[2])
	fmt.Printf("ok: the checkpoint of %s, size %d, is signed\n", head[0], size)
	proofs, err := filepath.Glob("proofs/*.tlog-proof")
	check(err, "proofs")
	for _, name := range proofs {
		text, err := os.ReadFile(name)
		check(err, name)
		lines := strings.Split(strings.SplitN(string(text), "\n\n", 2)[0], "\n")
		if len(lines) < 2 || lines[0] != "c2sp.org/tlog-proof@v1" || !strings.HasPrefix(lines[1], "index ") {
			log.Fatalf("FAILED: %s is no proof", name)
		}
		index, err := strconv.ParseInt(strings.TrimPrefix(lines[1], "index "), 10, 64)
		check(err, name)
		var path tlog.RecordProof
		for _, line := range lines[2:] {
			path = append(path, hashOf(line))
		}
		leaf, err := os.ReadFile(filepath.Join("records", strings.TrimSuffix(filepath.Base(name), ".tlog-proof")+".leaf"))
		check(err, "record")
		check(tlog.CheckRecord(path, size, root, index, tlog.RecordHash(leaf)), fmt.Sprintf("record %d", index))
	}
	fmt.Printf("ok: %d records are in the signed tree\n", len(proofs))
}

func hashOf(text string) tlog.Hash {
	var hash tlog.Hash
	data, err := base64.StdEncoding.DecodeString(text)
	check(err, "hash")
	if copy(hash[:], data) != len(hash) || len(data) != len(hash) {
		log.Fatal("FAILED: a hash is not 32 bytes")
	}
	return hash
}

func check(err error, what string) {
	if err != nil {
		log.Fatalf("FAILED: %s: %v", what, err)
	}
}
