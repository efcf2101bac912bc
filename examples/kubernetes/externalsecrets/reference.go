package externalsecrets

import (
	"slices"
	"strings"
	"time"
)

// Name is an ExternalSecret's.
type Name struct{ Namespace, Name string }

func (n Name) String() string { return n.Namespace + "/" + n.Name }

// ExternalSecret is the part of one that matters here. See the operator's
// docs/api/spec.md for all of it.
type ExternalSecret struct {
	Metadata struct {
		Namespace       string            `json:"namespace"`
		Name            string            `json:"name"`
		ResourceVersion string            `json:"resourceVersion"`
		Annotations     map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		RefreshPolicy   string `json:"refreshPolicy"`   // empty: Periodic
		RefreshInterval string `json:"refreshInterval"` // "1h0m0s", which is the default
		Data            []struct {
			RemoteRef remote `json:"remoteRef"`
		} `json:"data"`
		DataFrom []struct {
			Extract *remote `json:"extract"`
			Find    *struct {
				Path string `json:"path"`
			} `json:"find"`
		} `json:"dataFrom"`
	} `json:"spec"`
	Status struct {
		// Of the last refresh that succeeded: when it began, to the second, and what the
		// object was then, as "generation-digest of labels and annotations".
		RefreshTime           string `json:"refreshTime"`
		SyncedResourceVersion string `json:"syncedResourceVersion"`
	} `json:"status"`
}

type remote struct {
	Key string `json:"key"`
}

// Name of the ExternalSecret.
func (e ExternalSecret) Name() Name { return Name{e.Metadata.Namespace, e.Metadata.Name} }

// refersTo tells whether it copies one of the keys, as its store calls them. What looks
// for keys by a pattern or by tags is taken to find them all below its path: a refresh
// too many costs one read, one too few leaves an old credential.
func (e ExternalSecret) refersTo(keys []string) bool {
	for _, d := range e.Spec.Data {
		if slices.Contains(keys, d.RemoteRef.Key) {
			return true
		}
	}
	for _, d := range e.Spec.DataFrom {
		if d.Extract != nil && slices.Contains(keys, d.Extract.Key) {
			return true
		}
		if d.Find != nil && slices.ContainsFunc(keys, func(key string) bool { return strings.HasPrefix(key, d.Find.Path) }) {
			return true
		}
	}
	return false
}

// frozen says why the operator will not refresh it, whatever its annotations say
// (shouldRefresh of its controller); empty: it will.
func (e ExternalSecret) frozen() string {
	interval, err := time.ParseDuration(e.Spec.RefreshInterval)
	switch {
	case e.Status.SyncedResourceVersion == "":
		return "" // it has never been refreshed, so it will be
	case e.Spec.RefreshPolicy == "CreatedOnce":
		return "its refreshPolicy is CreatedOnce"
	case e.Spec.RefreshPolicy != "OnChange" && err == nil && interval <= 0:
		return "its refreshInterval is 0"
	}
	return ""
}

// state is that of its last refresh.
func (e ExternalSecret) state() string {
	if e.Status.RefreshTime == "" {
		return "never"
	}
	return e.Status.RefreshTime + " " + e.Status.SyncedResourceVersion
}

// refreshedSince tells whether a refresh that began after our mark has ended; before is the
// state that the mark was made in. The time of one says little: it may have read the old
// value before the mark, and ended after it. But what it has seen of the object holds a
// digest of the annotations, and so of our mark. Only where somebody took that away again
// (a ClusterExternalSecret does so with what is not its own), and the digest may be as
// before, is the time all that there is.
func (e ExternalSecret) refreshedSince(before string) bool {
	if e.Metadata.Annotations[refreshed] == "" {
		return e.state() != before
	}
	_, seen, _ := strings.Cut(before, " ")
	return e.Status.SyncedResourceVersion != seen
}
