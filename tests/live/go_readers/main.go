// Readers reads zips, infos and pages from standard input as the go command does, and prints a verdict per line.
// Each input is its length in 4 bytes, lowest first, and its bytes.
package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
	modzip "golang.org/x/mod/zip"
)

// Extracting a zip with more entries takes too long. CheckZip and HashZip read all of them.
const maxExtracted = 100

func main() {
	log.SetFlags(0)
	if len(os.Args) != 4 {
		log.Fatal("usage: readers zips|infos|pages PATH VERSION")
	}
	wanted := module.Version{Path: os.Args[2], Version: os.Args[3]}
	dir, err := os.MkdirTemp("", "readers")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	read := map[string]func([]byte) (string, error){
		"zips":  func(body []byte) (string, error) { return readZip(dir, wanted, body) },
		"infos": func(body []byte) (string, error) { return readInfo(wanted, body) },
		"pages": readPage,
	}[os.Args[1]]
	in, out := bufio.NewReader(os.Stdin), bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for {
		var length uint32
		if err := binary.Read(in, binary.LittleEndian, &length); err == io.EOF {
			return
		} else if err != nil {
			log.Fatal(err)
		}
		body := make([]byte, length)
		if _, err := io.ReadFull(in, body); err != nil {
			log.Fatal(err)
		}
		if verdict, err := read(body); err != nil {
			fmt.Fprintf(out, "refused %s\n", strings.ReplaceAll(err.Error(), "\n", " "))
		} else {
			fmt.Fprintf(out, "accepted %s\n", verdict)
		}
	}
}

// readZip does what the go command does with a downloaded zip.
func readZip(dir string, wanted module.Version, body []byte) (string, error) {
	path := filepath.Join(dir, "zip")
	if err := os.WriteFile(path, body, 0o666); err != nil {
		log.Fatal(err)
	}
	hash, err := dirhash.HashZip(path, dirhash.DefaultHash)
	if err != nil {
		return "", err
	}
	checked, err := modzip.CheckZip(wanted, path)
	if err != nil {
		return "", err
	}
	if err := checked.Err(); err != nil {
		return "", err
	}
	if len(checked.Valid) <= maxExtracted {
		target := filepath.Join(dir, "extracted")
		defer os.RemoveAll(target)
		if err := modzip.Unzip(target, wanted, path); err != nil {
			return "", err
		}
	}
	return hash, nil
}

// The types of the go command.
type origin struct {
	VCS, URL, Subdir, Hash, TagPrefix, TagSum, Ref, RepoSum string
}

type revInfo struct {
	Version string
	Time    time.Time
	Name    string `json:"-"`
	Short   string `json:"-"`
	Origin  *origin
}

// readInfo does what the go command does with the info of a version.
func readInfo(wanted module.Version, body []byte) (string, error) {
	var info revInfo
	if err := json.Unmarshal(body, &info); err != nil {
		return "", err
	}
	if info.Version != wanted.Version {
		return "", fmt.Errorf("it has version %q", info.Version)
	}
	hash := ""
	if info.Origin != nil {
		hash = info.Origin.Hash
	}
	// Readers agree on invalid UTF-8, but not on the number of its replacements.
	hash = strings.ReplaceAll(hash, "\ufffd", "")
	return fmt.Sprintf("%d.%09d %x", info.Time.Unix(), info.Time.Nanosecond(), hash), nil
}

// readPage finds the go-import meta tags of a page. A fault ends the page.
func readPage(body []byte) (string, error) {
	decoder := xml.NewDecoder(bytes.NewReader(body))
	decoder.Strict = false
	decoder.CharsetReader = func(charset string, input io.Reader) (io.Reader, error) {
		if name := strings.ToLower(charset); name != "utf-8" && name != "ascii" {
			return nil, fmt.Errorf("charset %q", charset)
		}
		return input, nil
	}
	var found []string
	for {
		token, err := decoder.RawToken()
		if err != nil {
			break
		}
		if end, ok := token.(xml.EndElement); ok && strings.EqualFold(end.Name.Local, "head") {
			break
		}
		start, ok := token.(xml.StartElement)
		if ok && strings.EqualFold(start.Name.Local, "body") {
			break
		}
		if !ok || !strings.EqualFold(start.Name.Local, "meta") {
			continue
		}
		value := func(name string) string {
			for _, attribute := range start.Attr {
				if strings.EqualFold(attribute.Name.Local, name) {
					return attribute.Value
				}
			}
			return ""
		}
		fields := strings.Fields(value("content"))
		if value("name") == "go-import" && (len(fields) == 3 || len(fields) == 4) {
			found = append(found, fmt.Sprintf("%x", strings.Join(fields, " ")))
		}
	}
	return strings.Join(found, " "), nil
}
