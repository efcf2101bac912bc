package oidcserver

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"

	"golang.org/x/net/html"
)

// Person is somebody with a browser: one that keeps cookies, follows redirects and
// has no scripts.
type Person struct {
	account string
	client  *http.Client
}

// NewPerson is who logs in to that account.
func NewPerson(account string) *Person {
	jar, _ := cookiejar.New(nil) // has no error
	return &Person{account: account, client: &http.Client{Jar: jar}}
}

// Open opens a page and fills in and sends every form that follows, logging in and
// agreeing to whatever is asked, until a page has none. It returns that page's text.
func (p *Person) Open(address string) (string, error) {
	resp, err := p.client.Get(address)
	for range 10 {
		if err != nil {
			return "", err
		}
		body, err2 := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err2 != nil {
			return "", err2
		}
		f, ok := formIn(string(body))
		if !ok {
			if resp.StatusCode >= http.StatusBadRequest {
				return "", fmt.Errorf("%s: %s", resp.Request.URL.Path, resp.Status)
			}
			return string(body), nil
		}
		if _, asked := f.values["login"]; asked {
			f.values.Set("login", p.account)
			f.values.Set("password", "any")
		}
		target, err2 := resp.Request.URL.Parse(f.action)
		if err2 != nil {
			return "", err2
		}
		resp, err = p.client.PostForm(target.String(), f.values)
	}
	return "", errors.New("there is no end of forms")
}

type form struct {
	action string
	values url.Values
}

// formIn returns the first form of a page, with the fields that it has.
func formIn(page string) (f form, ok bool) {
	for z := html.NewTokenizer(strings.NewReader(page)); ; {
		kind := z.Next()
		if kind == html.ErrorToken {
			return f, ok
		}
		if kind != html.StartTagToken && kind != html.SelfClosingTagToken {
			if t := z.Token(); kind == html.EndTagToken && t.Data == "form" && ok {
				return f, ok
			}
			continue
		}
		t := z.Token()
		attr := map[string]string{}
		for _, a := range t.Attr {
			attr[a.Key] = a.Val
		}
		switch {
		case t.Data == "form" && !ok:
			f, ok = form{action: attr["action"], values: url.Values{}}, true
		case (t.Data == "input" || t.Data == "button") && ok && attr["name"] != "" && attr["name"] != "abort":
			f.values.Add(attr["name"], attr["value"])
		}
	}
}
