// Follows NodePools as any Kubernetes controller would, with client-go's shared informer, and prints each event as a
// line of JSON. Ends when its standard input does.
package main

import (
	"encoding/json"
	"flag"
	"io"
	"os"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

type line struct {
	Event    string `json:"event"`
	Name     string `json:"name,omitempty"`
	Replicas int64  `json:"replicas,omitempty"`
	Message  string `json:"message,omitempty"`
}

var (
	out = json.NewEncoder(os.Stdout)
	one sync.Mutex
)

func say(l line) {
	one.Lock()
	defer one.Unlock()
	if err := out.Encode(l); err != nil {
		os.Exit(1)
	}
}

func sayObject(event string, obj any) {
	if last, missed := obj.(cache.DeletedFinalStateUnknown); missed {
		obj, event = last.Obj, "delete-missed"
	}
	pool := obj.(*unstructured.Unstructured)
	replicas, _, _ := unstructured.NestedInt64(pool.Object, "spec", "replicas")
	say(line{Event: event, Name: pool.GetName(), Replicas: replicas})
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "file that says where the API is")
	flag.Parse()
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		panic(err)
	}
	client := dynamic.NewForConfigOrDie(config)
	factory := dynamicinformer.NewDynamicSharedInformerFactory(client, 0)
	resource := schema.GroupVersionResource{Group: "bedplate.dev", Version: "v1alpha1", Resource: "nodepools"}
	informer := factory.ForResource(resource).Informer()
	if err := informer.SetWatchErrorHandler(func(_ *cache.Reflector, err error) {
		say(line{Event: "error", Message: err.Error()})
	}); err != nil {
		panic(err)
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { sayObject("add", obj) },
		UpdateFunc: func(_, obj any) { sayObject("update", obj) },
		DeleteFunc: func(obj any) { sayObject("delete", obj) },
	}); err != nil {
		panic(err)
	}
	stop := make(chan struct{})
	factory.Start(stop)
	if !cache.WaitForCacheSync(stop, informer.HasSynced) {
		os.Exit(1)
	}
	say(line{Event: "synced"})
	_, _ = io.Copy(io.Discard, os.Stdin)
	close(stop)
	factory.Shutdown()
}
