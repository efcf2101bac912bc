package keyserver

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// SetPageSize makes GET /v1/keys answer n keys at a time; 0 = all. Which ones is said
// by after=ID, as next_cursor gives it, or by page=NUMBER from 1. How the list goes on is
// told in every way at once: has_more, next_cursor, next and the header Link.
func (s *Server) SetPageSize(n int) { s.set(func() { s.pageSize = n }) }

// SetNext makes next and the header Link say url wherever a list goes on; empty: what is
// true.
func (s *Server) SetNext(url string) { s.set(func() { s.next = url }) }

func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	all := []map[string]any{}
	for _, k := range s.Live() {
		// A search by prefix, as many APIs have it: more than what was asked for.
		if strings.HasPrefix(k.Name, query.Get("name")) {
			all = append(all, map[string]any{"id": k.ID, "name": k.Name})
		}
	}
	s.mu.Lock()
	size, next := s.pageSize, s.next
	s.mu.Unlock()
	if size == 0 {
		answer(w, http.StatusOK, map[string]any{"data": all})
		return
	}
	from := start(all, query, size)
	to := min(from+size, len(all))
	body := map[string]any{"data": all[from:to], "has_more": to < len(all), "next_cursor": nil, "next": nil}
	if to < len(all) {
		body["next_cursor"] = all[to-1]["id"]
		query.Del("page")
		query.Set("after", all[to-1]["id"].(string))
		if next == "" {
			next = r.URL.Path + "?" + query.Encode()
		}
		body["next"] = next
		w.Header().Add("Link", `</v1/keys>; rel="first"; title="a, b", <`+next+`>; rel="next"`)
	}
	answer(w, http.StatusOK, body)
}

// start is the index of the first item of the page that is asked for.
func start(all []map[string]any, query url.Values, size int) int {
	if after := query.Get("after"); after != "" {
		for i, item := range all {
			if item["id"] == after {
				return i + 1
			}
		}
		return len(all)
	}
	page, err := strconv.Atoi(query.Get("page"))
	if err != nil {
		return 0
	}
	return min((page-1)*size, len(all))
}

// Make makes live keys with these names, as an admin would.
func (s *Server) Make(names ...string) {
	for _, name := range names {
		s.set(func() { s.keys = append(s.keys, newKey(name, "")) })
	}
}

// MakeMany makes n live keys with names that begin with prefix.
func (s *Server) MakeMany(prefix string, n int) {
	for i := range n {
		s.Make(fmt.Sprintf("%s%d", prefix, i))
	}
}
