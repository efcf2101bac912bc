package main

import (
	_ "embed"
	"fmt"
	"slices"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimachineryvalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

const (
	group    = "external-secrets.io"
	kind     = "ExternalSecret"
	resource = "externalsecrets"
)

var plural = schema.GroupResource{Group: group, Resource: resource}

//go:embed crd/external-secrets.io_externalsecrets.yaml
var crd []byte

// definition is what the versions of the CRD say that are served.
type definition struct {
	version    string // that is stored, the only one that is served
	structural *structuralschema.Structural
	validator  validation.SchemaValidator
}

func readSchema() (*definition, error) {
	var external apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(crd, &external); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(external.Spec.Versions, func(v apiextensionsv1.CustomResourceDefinitionVersion) bool {
		return v.Served && v.Storage
	})
	if i < 0 || external.Spec.Group != group || external.Spec.Names.Plural != resource || external.Spec.Names.Kind != kind {
		return nil, fmt.Errorf("it is not of %s", resource)
	}
	v := external.Spec.Versions[i]
	var props apiextensions.JSONSchemaProps
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema, &props, nil); err != nil {
		return nil, err
	}
	structural, err := structuralschema.NewStructural(&props)
	if err != nil {
		return nil, err
	}
	validator, _, err := validation.NewSchemaValidator(&props)
	return &definition{version: v.Name, structural: structural, validator: validator}, err
}

// admit brings an object into the form in which it is stored, or refuses it. What the
// schema does not know is dropped or, if strict, refused. old is nil for a new object.
func (s *definition) admit(new, old object, strict bool) error {
	meta, _, unknown, err := objectmeta.GetObjectMetaWithOptions(new, objectmeta.ObjectMetaOptions{ReturnUnknownFieldPaths: true})
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if new["apiVersion"] != group+"/"+s.version || new["kind"] != kind {
		return apierrors.NewBadRequest(fmt.Sprintf("the object is no %s of %s/%s", kind, group, s.version))
	}
	unknown = append(unknown, pruning.PruneWithOptions(map[string]any(new), s.structural, true,
		structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})...)
	if strict && len(unknown) > 0 {
		return apierrors.NewBadRequest(fmt.Sprintf("strict decoding error: unknown field %q", unknown[0]))
	}
	defaulting.PruneNonNullableNullsWithoutDefaults(map[string]any(new), s.structural)
	defaulting.Default(map[string]any(new), s.structural)
	path := field.NewPath("metadata")
	errs := apimachineryvalidation.ValidateObjectMeta(meta, true, apimachineryvalidation.NameIsDNSSubdomain, path)
	if old == nil {
		errs = append(errs, validation.ValidateCustomResource(nil, map[string]any(new), s.validator)...)
	} else {
		errs = append(errs, validation.ValidateCustomResourceUpdate(nil, map[string]any(new), map[string]any(old), s.validator)...)
		var was *metav1.ObjectMeta
		if was, _, err = objectmeta.GetObjectMeta(old, false); err != nil {
			return err
		}
		errs = append(errs, apimachineryvalidation.ValidateObjectMetaUpdate(meta, was, path)...)
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Group: group, Kind: kind}, meta.Name, errs)
	}
	return objectmeta.SetObjectMeta(new, meta)
}
