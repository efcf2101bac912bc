package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// rights are who there is and what each may do: RBAC, as far as namespaces go.
type rights struct {
	admin    string         // token
	accounts map[string]key // service accounts by token
	roles    map[key][]rbacv1.PolicyRule
	bindings []rbacv1.RoleBinding
}

func newRights() *rights {
	return &rights{admin: rand.Text(), accounts: map[string]key{}, roles: map[key][]rbacv1.PolicyRule{}}
}

func (r *rights) tokens() map[string]string {
	tokens := map[string]string{}
	for token, account := range r.accounts {
		tokens[account.namespace+"/"+account.name] = token
	}
	return tokens
}

// allow tells whether a service account may do something in a namespace. name is empty
// for what is about no single object, which a rule with names never allows.
func (r *rights) allow(account key, namespace, verb, name string) bool {
	for _, b := range r.bindings {
		bound := slices.ContainsFunc(b.Subjects, func(s rbacv1.Subject) bool {
			return s.Kind == "ServiceAccount" && s.Namespace == account.namespace && s.Name == account.name
		})
		if !bound || b.Namespace != namespace || b.RoleRef.Kind != "Role" {
			continue
		}
		for _, rule := range r.roles[key{namespace, b.RoleRef.Name}] {
			if slices.Contains(rule.APIGroups, group) && slices.Contains(rule.Resources, resource) && slices.Contains(rule.Verbs, verb) &&
				(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, name)) {
				return true
			}
		}
	}
	return false
}

// readManifests takes the objects of a file of YAML: rights and ExternalSecrets are kept;
// all the others must be of a kind that is known here and say nothing that it has not.
func readManifests(file string, r *rights, s *store) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for n := 1; ; n++ {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = readManifest(document, r, s)
		}
		if err != nil {
			return fmt.Errorf("document %d: %w", n, err)
		}
	}
}

func readManifest(document []byte, r *rights, s *store) error {
	var t metav1.TypeMeta
	if err := yaml.Unmarshal(document, &t); err != nil {
		return err
	}
	switch t.APIVersion + " " + t.Kind {
	case "v1 ServiceAccount":
		a, err := decode[corev1.ServiceAccount](document)
		r.accounts[rand.Text()] = key{a.Namespace, a.Name}
		return err
	case "rbac.authorization.k8s.io/v1 Role":
		role, err := decode[rbacv1.Role](document)
		r.roles[key{role.Namespace, role.Name}] = role.Rules
		return err
	case "rbac.authorization.k8s.io/v1 RoleBinding":
		b, err := decode[rbacv1.RoleBinding](document)
		r.bindings = append(r.bindings, b)
		return err
	case "apps/v1 Deployment":
		_, err := decode[appsv1.Deployment](document)
		return err
	case "networking.k8s.io/v1 NetworkPolicy":
		_, err := decode[networkingv1.NetworkPolicy](document)
		return err
	case "v1 Service":
		_, err := decode[corev1.Service](document)
		return err
	case "v1 Secret":
		_, err := decode[corev1.Secret](document)
		return err
	case group + "/" + s.schema.version + " " + kind:
		o := object{}
		if err := yaml.Unmarshal(document, (*map[string]any)(&o)); err != nil {
			return err
		}
		_, err := s.create(o)
		return err
	}
	return fmt.Errorf("%q is of no kind that is known here", bytes.TrimSpace(document))
}

// decode is as strict as an API server asked for fieldValidation=Strict: names in their
// exact case, none that is unknown, none twice.
func decode[T any](document []byte) (T, error) {
	var into T
	text, err := yaml.YAMLToJSONStrict(document)
	if err != nil {
		return into, err
	}
	unknown, err := kjson.UnmarshalStrict(text, &into)
	return into, errors.Join(append(unknown, err)...)
}
