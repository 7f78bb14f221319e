// Command go_verify checks a C2SP tiled log with Go's own transparency-log code, which shares nothing with ours.
//
// Usage: go_verify DIR VKEY [RANDOM]
//
// It opens DIR/checkpoint with the note package; reads every entry bundle and hashes the entries; asks tlog for the tree hash over tiles read from
// DIR; and checks inclusion of chosen leaves and consistency from chosen earlier sizes, and of RANDOM further pairs of leaf and size. It prints one
// JSON line and exits 0, or says what is wrong.
//
// Usage: go_verify -proofs FILE
//
// It checks proofs that others made: FILE has one JSON object a line, {"index", "size", "leaf", "root", "hashes"} for inclusion of the leaf hash at
// index, or {"old", "old_root", "size", "root", "hashes"} for consistency; hashes in base64.
package main

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

// directory serves tiles from files to tlog.
type directory string

func (d directory) Height() int { return height }

func (d directory) SaveTiles([]tlog.Tile, [][]byte) {}

func (d directory) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, tile := range tiles {
		// tlog names tiles tile/8/L/N; the C2SP layout leaves the height out.
		path := "tile/" + strings.TrimPrefix(tile.Path(), "tile/8/")
		read, err := os.ReadFile(filepath.Join(string(d), path))
		if err != nil {
			return nil, err
		}
		data[i] = read
	}
	return data, nil
}

func main() {
	log.SetFlags(0)
	if len(os.Args) == 3 && os.Args[1] == "-proofs" {
		checkProofs(os.Args[2])
		return
	}
	random := 0
	if len(os.Args) == 4 {
		given, err := strconv.Atoi(os.Args[3])
		check(err, "number of random proofs")
		random = given
	} else if len(os.Args) != 3 {
		log.Fatal("usage: go_verify DIR VKEY [RANDOM], or go_verify -proofs FILE")
	}
	dir := directory(os.Args[1])
	tree := openHead(dir, os.Args[2])
	hashes := tlog.TileHashReader(tree, dir)
	root, err := tlog.TreeHash(tree.N, hashes)
	check(err, "tree hash")
	if root != tree.Hash {
		log.Fatalf("tiles hash to %v, the checkpoint says %v", root, tree.Hash)
	}
	leaves := readEntries(dir, tree.N)
	fromEntries := rootOf(leaves)
	if fromEntries != tree.Hash {
		log.Fatalf("entries hash to %v, the checkpoint says %v", fromEntries, tree.Hash)
	}
	proofs := 0
	for _, n := range []int64{0, 1, 254, 255, 256, 257, 65534, 65535, 65536, 65537, tree.N - 1} {
		if n >= tree.N {
			continue
		}
		proof, err := tlog.ProveRecord(tree.N, n, hashes)
		check(err, "prove record")
		check(tlog.CheckRecord(proof, tree.N, tree.Hash, n, leaves[n]), fmt.Sprintf("record %d", n))
		proofs++
	}
	for _, n := range []int64{1, 255, 256, 257, 65535, 65536, 65537, tree.N} {
		if n > tree.N {
			continue
		}
		proof, err := tlog.ProveTree(tree.N, n, hashes)
		check(err, "prove tree")
		check(tlog.CheckTree(proof, tree.N, tree.Hash, n, rootOf(leaves[:n])), fmt.Sprintf("tree %d", n))
		proofs++
	}
	proofs += randomProofs(tree, hashes, leaves, random)
	check(json.NewEncoder(os.Stdout).Encode(map[string]int64{"size": tree.N, "proofs": int64(proofs)}), "print")
}

// randomProofs proves leaves in, and consistency between, trees of the sizes at which tiles change shape and of random sizes.
func randomProofs(tree tlog.Tree, hashes tlog.HashReader, leaves []tlog.Hash, count int) int {
	source := rand.New(rand.NewPCG(1, 2))
	edges := []int64{255, 256, 257, 65535, 65536, 65537, tree.N}
	pick := func(i int) int64 {
		if size := edges[i%len(edges)]; i%2 == 0 && size <= tree.N {
			return size
		}
		return 1 + source.Int64N(tree.N)
	}
	proofs := 0
	for i := 0; i < count; i++ {
		size := pick(i)
		root, err := tlog.TreeHash(size, hashes)
		check(err, "tree hash")
		n := source.Int64N(size)
		record, err := tlog.ProveRecord(size, n, hashes)
		check(err, "prove record")
		check(tlog.CheckRecord(record, size, root, n, leaves[n]), fmt.Sprintf("record %d in %d", n, size))
		old := 1 + source.Int64N(size)
		oldRoot, err := tlog.TreeHash(old, hashes)
		check(err, "tree hash")
		extension, err := tlog.ProveTree(size, old, hashes)
		check(err, "prove tree")
		check(tlog.CheckTree(extension, size, root, old, oldRoot), fmt.Sprintf("tree %d in %d", old, size))
		proofs += 2
	}
	return proofs
}

// proof is one line of the file that -proofs names.
type proof struct {
	Index, Old, Size    int64
	Leaf, Root, OldRoot []byte
	Hashes              [][]byte
}

func (p *proof) UnmarshalJSON(data []byte) error {
	var line struct {
		Index   int64    `json:"index"`
		Old     int64    `json:"old"`
		Size    int64    `json:"size"`
		Leaf    []byte   `json:"leaf"`
		Root    []byte   `json:"root"`
		OldRoot []byte   `json:"old_root"`
		Hashes  [][]byte `json:"hashes"`
	}
	err := json.Unmarshal(data, &line)
	*p = proof(line)
	return err
}

// checkProofs checks every proof of a file.
func checkProofs(name string) {
	file, err := os.Open(name)
	check(err, "proofs")
	inclusions, consistencies := 0, 0
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var one proof
		check(json.Unmarshal(lines.Bytes(), &one), "proof")
		path := make([]tlog.Hash, len(one.Hashes))
		for i, each := range one.Hashes {
			path[i] = hashOf(each)
		}
		if one.Leaf != nil {
			check(tlog.CheckRecord(path, one.Size, hashOf(one.Root), one.Index, hashOf(one.Leaf)), fmt.Sprintf("record %d in %d", one.Index, one.Size))
			inclusions++
		} else {
			check(tlog.CheckTree(path, one.Size, hashOf(one.Root), one.Old, hashOf(one.OldRoot)), fmt.Sprintf("tree %d in %d", one.Old, one.Size))
			consistencies++
		}
	}
	check(lines.Err(), "proofs")
	check(json.NewEncoder(os.Stdout).Encode(map[string]int{"inclusion": inclusions, "consistency": consistencies}), "print")
}

func hashOf(data []byte) tlog.Hash {
	var hash tlog.Hash
	if copy(hash[:], data) != len(hash) || len(data) != len(hash) {
		log.Fatal("a hash is not 32 bytes")
	}
	return hash
}

func check(err error, what string) {
	if err != nil {
		log.Fatalf("%s: %v", what, err)
	}
}

// openHead reads and verifies the checkpoint.
func openHead(dir directory, vkey string) tlog.Tree {
	verifier, err := note.NewVerifier(vkey)
	check(err, "verification key")
	data, err := os.ReadFile(filepath.Join(string(dir), "checkpoint"))
	check(err, "checkpoint")
	opened, err := note.Open(data, note.VerifierList(verifier))
	check(err, "checkpoint")
	lines := strings.Split(opened.Text, "\n")
	if len(lines) < 4 || lines[0] != verifier.Name() {
		log.Fatalf("checkpoint of another origin: %q", opened.Text)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	check(err, "size")
	root, err := base64.StdEncoding.DecodeString(lines[2])
	check(err, "root")
	var hash tlog.Hash
	if copy(hash[:], root) != len(hash) || len(root) != len(hash) {
		log.Fatal("root is not 32 bytes")
	}
	return tlog.Tree{N: size, Hash: hash}
}

// readEntries returns the leaf hashes of all entries, from their bundles.
func readEntries(dir directory, size int64) []tlog.Hash {
	var leaves []tlog.Hash
	for n := int64(0); n*256 < size; n++ {
		width := min(256, int(size-n*256))
		tile := tlog.Tile{H: height, L: -1, N: n, W: width}
		path := "tile/entries/" + strings.TrimPrefix(tile.Path(), "tile/8/data/")
		data, err := os.ReadFile(filepath.Join(string(dir), path))
		check(err, "entry bundle")
		for i := 0; i < width; i++ {
			if len(data) < 2 || len(data) < 2+int(binary.BigEndian.Uint16(data)) {
				log.Fatalf("%s ends early", path)
			}
			end := 2 + int(binary.BigEndian.Uint16(data))
			leaves = append(leaves, tlog.RecordHash(data[2:end]))
			data = data[end:]
		}
		if len(data) > 0 {
			log.Fatalf("%s has trailing bytes", path)
		}
	}
	return leaves
}

// rootOf is the recursive definition of RFC 6962 section 2.1.
func rootOf(leaves []tlog.Hash) tlog.Hash {
	if len(leaves) == 1 {
		return leaves[0]
	}
	k := 1
	for k*2 < len(leaves) {
		k *= 2
	}
	return tlog.NodeHash(rootOf(leaves[:k]), rootOf(leaves[k:]))
}
