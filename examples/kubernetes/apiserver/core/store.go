package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
)

// object is an ExternalSecret as JSON. One that is stored is never changed, but replaced.
type object map[string]any

type key struct{ namespace, name string }

func (o object) unstructured() *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: o}
}

func (o object) key() key {
	u := o.unstructured()
	return key{u.GetNamespace(), u.GetName()}
}

var errModified = errors.New("the object has been modified; please apply your changes to the latest version and try again")

// store holds the ExternalSecrets, and does with a changed one what the operator would.
// Its errors are those of Kubernetes, with their status.
type store struct {
	schema *definition
	now    func() time.Time

	mu       sync.Mutex
	objects  map[key]object
	revision int64
	paused   bool // the operator sleeps
	strips   bool // the ExternalSecrets are a ClusterExternalSecret's
}

func (s *store) get(k key) (object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[k]
	if !ok {
		return nil, apierrors.NewNotFound(plural, k.name)
	}
	return o, nil
}

// list returns those of a namespace in the order of their names.
func (s *store) list(namespace string) []object {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := slices.DeleteFunc(slices.Collect(maps.Keys(s.objects)), func(k key) bool { return k.namespace != namespace })
	slices.SortFunc(keys, func(a, b key) int { return cmp.Compare(a.name, b.name) })
	var found []object
	for _, k := range keys {
		found = append(found, s.objects[k])
	}
	return found
}

// create stores a new object.
func (s *store) create(o object) (object, error) {
	o = o.unstructured().DeepCopy().Object
	u := o.unstructured()
	u.SetGeneration(1)
	u.SetUID("")
	u.SetResourceVersion("")
	delete(o, "status")
	if err := s.schema.admit(o, nil, true); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.objects[o.key()]; ok {
		return nil, apierrors.NewAlreadyExists(plural, o.key().name)
	}
	s.save(o)
	s.reconcile(o.key())
	return s.objects[o.key()], nil
}

// patch merges a patch into an object as RFC 7396 says. A resourceVersion in it must be
// the object's; what it says of the status is dropped, as that has a resource of its own.
func (s *store) patch(k key, patch []byte, strict bool) (object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.objects[k]
	if !ok {
		return nil, apierrors.NewNotFound(plural, k.name)
	}
	text, err := json.Marshal(old)
	if err != nil {
		return nil, err
	}
	merged, err := jsonpatch.MergePatch(text, patch)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	new := object{}
	if err := utiljson.Unmarshal(merged, (*map[string]any)(&new)); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if new["status"] = old["status"]; old["status"] == nil {
		delete(new, "status")
	}
	meta, _ := new["metadata"].(map[string]any)
	if meta["resourceVersion"] != old.unstructured().GetResourceVersion() {
		return nil, apierrors.NewConflict(plural, k.name, errModified)
	}
	if err := s.schema.admit(new, old, strict); err != nil {
		return nil, err
	}
	if reflect.DeepEqual(map[string]any(new), map[string]any(old)) {
		return old, nil // nothing is written, and nobody is told
	}
	if !reflect.DeepEqual(new["spec"], old["spec"]) {
		new.unstructured().SetGeneration(old.unstructured().GetGeneration() + 1)
	}
	s.save(new)
	s.reconcile(k)
	if s.strips {
		s.strip(k, old)
	}
	return new, nil
}

// strip gives an object the annotations again that it had, as the controller of
// ClusterExternalSecrets does.
func (s *store) strip(k key, old object) {
	o := object(s.objects[k].unstructured().DeepCopy().Object)
	o.unstructured().SetAnnotations(old.unstructured().GetAnnotations())
	s.save(o)
	s.reconcile(k)
}

// finish ends a refresh that began before the object was changed last, and so has not
// seen the change.
func (s *store) finish(k key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[k]
	if !ok {
		return apierrors.NewNotFound(plural, k.name)
	}
	before, _, _ := unstructured.NestedString(o, "status", "refreshTime")
	at, err := time.Parse(time.RFC3339, before)
	if err != nil {
		return err
	}
	done := object(o.unstructured().DeepCopy().Object)
	if err := unstructured.SetNestedField(done, at.Add(time.Second).Format(time.RFC3339), "status", "refreshTime"); err != nil {
		return err
	}
	s.save(done)
	return nil
}

// save stores an object under the next resource version.
func (s *store) save(o object) {
	s.revision++
	o.unstructured().SetResourceVersion(strconv.FormatInt(s.revision, 10))
	s.objects[o.key()] = o
}

// operate puts the operator to sleep or wakes it up, and says whether it takes annotations
// away that are not its own.
func (s *store) operate(paused, strips bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused, s.strips = paused, strips
	for k := range s.objects {
		s.reconcile(k)
	}
}

// reconcile is what matters here of the operator's loop (shouldRefresh and markAsDone of
// its externalsecret_controller.go): it fetches when the object was changed, unless it
// never refreshes, and then notes when and what it has seen.
func (s *store) reconcile(k key) {
	o := s.objects[k]
	if s.paused || !refreshes(o) {
		return
	}
	done := object(o.unstructured().DeepCopy().Object)
	_ = unstructured.SetNestedField(done, s.now().UTC().Format(time.RFC3339), "status", "refreshTime")
	_ = unstructured.SetNestedField(done, synced(o), "status", "syncedResourceVersion")
	s.save(done)
}

func refreshes(o object) bool {
	policy, _, _ := unstructured.NestedString(o, "spec", "refreshPolicy")
	text, _, _ := unstructured.NestedString(o, "spec", "refreshInterval")
	last, _, _ := unstructured.NestedString(o, "status", "syncedResourceVersion")
	interval, _ := time.ParseDuration(text)
	switch {
	case last == "":
		return true
	case policy == "CreatedOnce", policy != "OnChange" && interval <= 0:
		return false
	}
	return last != synced(o)
}

// synced is the object's own generation and a digest of its labels and annotations.
func synced(o object) string {
	u := o.unstructured()
	sum := sha256.Sum224(fmt.Append(nil, u.GetAnnotations(), u.GetLabels()))
	return fmt.Sprintf("%d-%s", u.GetGeneration(), hex.EncodeToString(sum[:]))
}
