package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// event is a fault that was asked for, or a request that was answered.
type event struct {
	Method string `json:"method"`
	Status int    `json:"status"` // of a fault: 0, the object is changed by somebody else right before
	Path   string `json:"path,omitempty"`
	Body   string `json:"body,omitempty"`
}

// api serves the ExternalSecrets to whom the roles allow it, and everything to the admin,
// who also may say what goes wrong next, and see what was asked:
//
//	POST /test/faults    the next request of the method gets the status
//	POST /test/operator  {"paused": true, "strips": true}
//	POST /test/refreshes {"namespace": …, "name": …}: one that began before the last change ends
//	GET  /test/requests  those of service accounts that were not GETs
type api struct {
	store  *store
	rights *rights

	mu       sync.Mutex
	faults   []event
	requests []event
}

func newAPI(s *store, r *rights) http.Handler {
	a := &api{store: s, rights: r}
	mux := http.NewServeMux()
	base := "/apis/" + group + "/" + s.schema.version + "/namespaces/{namespace}/" + resource
	mux.HandleFunc("GET "+base, a.guard("list", a.list))
	mux.HandleFunc("GET "+base+"/{name}", a.guard("get", a.get))
	mux.HandleFunc("PATCH "+base+"/{name}", a.guard("patch", a.patch))
	mux.HandleFunc("POST /test/faults", a.administer(a.addFault))
	mux.HandleFunc("POST /test/operator", a.administer(a.operate))
	mux.HandleFunc("POST /test/refreshes", a.administer(a.finish))
	mux.HandleFunc("GET /test/requests", a.administer(a.showRequests))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, apierrors.NewGenericServerResponse(404, "get", schema.GroupResource{}, "", "404 page not found", 0, true))
	})
	return mux
}

// guard lets through whom the roles allow it.
func (a *api) guard(verb string, serve func(http.ResponseWriter, *http.Request, key)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		k := key{r.PathValue("namespace"), r.PathValue("name")}
		account, known := a.rights.accounts[token]
		switch {
		case token == a.rights.admin:
			serve(w, r, k)
			return
		case !known:
			refuse(w, apierrors.NewUnauthorized("Unauthorized"))
			return
		case !a.rights.allow(account, k.namespace, verb, k.name):
			user := "system:serviceaccount:" + account.namespace + ":" + account.name
			refuse(w, apierrors.NewForbidden(plural, k.name, fmt.Errorf("%s %q cannot %s resource %q in API group %q in the namespace %q",
				"User", user, verb, resource, group, k.namespace)))
			return
		}
		if status, ok := a.fault(r.Method); ok && status == 0 {
			a.touch(k)
		} else if ok {
			if status == http.StatusTooManyRequests {
				w.Header().Set("Retry-After", "1")
			}
			refuse(w, apierrors.NewGenericServerResponse(status, verb, plural, k.name, "asked for by a test", 0, false))
			return
		}
		serve(w, r, k)
	}
}

func (a *api) list(w http.ResponseWriter, r *http.Request, k key) {
	found := a.store.list(k.namespace)
	from, _ := strconv.Atoi(r.URL.Query().Get("continue")) // "" is the beginning
	limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
	meta := map[string]any{"resourceVersion": "1"}
	if limit > 0 && from+limit < len(found) {
		meta["continue"] = strconv.Itoa(from + limit)
		found = found[:from+limit]
	}
	answer(w, 200, map[string]any{
		"apiVersion": group + "/" + a.store.schema.version, "kind": kind + "List", "metadata": meta, "items": append([]object{}, found[min(from, len(found)):]...),
	})
}

func (a *api) get(w http.ResponseWriter, _ *http.Request, k key) {
	o, err := a.store.get(k)
	a.reply(w, 200, o, err)
}

func (a *api) patch(w http.ResponseWriter, r *http.Request, k key) {
	if t, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); t != "application/merge-patch+json" {
		refuse(w, apierrors.NewGenericServerResponse(http.StatusUnsupportedMediaType, "patch", plural, k.name, "the body of the request was in an unknown format", 0, false))
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		refuse(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	o, err := a.store.patch(k, body, r.URL.Query().Get("fieldValidation") == "Strict")
	a.note(event{Method: r.Method, Path: r.URL.Path, Body: string(body), Status: a.reply(w, 200, o, err)})
}

// reply answers with the object or the error, and returns the status.
func (a *api) reply(w http.ResponseWriter, status int, o object, err error) int {
	if e, ok := errors.AsType[*apierrors.StatusError](err); ok {
		return refuse(w, e)
	}
	if err != nil {
		return refuse(w, apierrors.NewInternalError(err))
	}
	answer(w, status, o)
	return status
}

func refuse(w http.ResponseWriter, e *apierrors.StatusError) int {
	s := e.Status()
	s.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	answer(w, int(s.Code), s)
	return int(s.Code)
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// touch changes an object as somebody else would.
func (a *api) touch(k key) {
	o, err := a.store.get(k)
	if err != nil {
		return
	}
	old, _ := strconv.Atoi(o.unstructured().GetLabels()["touched"])
	_, _ = a.store.patch(k, fmt.Appendf(nil, `{"metadata":{"labels":{"touched":"%d"}}}`, old+1), true)
}

func (a *api) fault(method string) (int, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, f := range a.faults {
		if f.Method == method {
			a.faults = append(a.faults[:i:i], a.faults[i+1:]...)
			return f.Status, true
		}
	}
	return 0, false
}

func (a *api) note(e event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.requests = append(a.requests, e)
}

func (a *api) administer(serve func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+a.rights.admin {
			refuse(w, apierrors.NewUnauthorized("Unauthorized"))
			return
		}
		if err := serve(w, r); err != nil {
			refuse(w, apierrors.NewBadRequest(err.Error()))
		}
	}
}

func (a *api) addFault(_ http.ResponseWriter, r *http.Request) error {
	var f event
	if err := json.NewDecoder(r.Body).Decode(&f); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.faults = append(a.faults, f)
	return nil
}

func (a *api) operate(_ http.ResponseWriter, r *http.Request) error {
	var order struct {
		Paused bool `json:"paused"`
		Strips bool `json:"strips"`
	}
	if err := json.NewDecoder(r.Body).Decode(&order); err != nil {
		return err
	}
	a.store.operate(order.Paused, order.Strips)
	return nil
}

func (a *api) finish(_ http.ResponseWriter, r *http.Request) error {
	var order struct{ Namespace, Name string }
	if err := json.NewDecoder(r.Body).Decode(&order); err != nil {
		return err
	}
	return a.store.finish(key{order.Namespace, order.Name})
}

func (a *api) showRequests(w http.ResponseWriter, _ *http.Request) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	answer(w, 200, append([]event{}, a.requests...))
	return nil
}
