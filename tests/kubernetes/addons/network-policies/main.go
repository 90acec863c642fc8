// Command network-policies is the controller of kube-network-policies, with the rights of a kubeconfig.
//
// It says of each packet that the node's packet filter puts into its queue whether NetworkPolicies let it through.
package main

import (
	"context"
	"flag"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/kube-network-policies/pkg/networkpolicy"
)

func main() {
	kubeconfig := flag.String("kubeconfig", "", "file that says where the API server is and who asks it")
	node := flag.String("hostname-override", "", "the node's name")
	queue := flag.Int("nfqueue-id", 100, "number of the packet filter's queue")
	klog.InitFlags(nil)
	flag.Parse()
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		klog.Fatal(err)
	}
	client := kubernetes.NewForConfigOrDie(config)
	watched := informers.NewSharedInformerFactory(client, 0)
	controller, err := networkpolicy.NewController(
		client,
		watched.Networking().V1().NetworkPolicies(), watched.Core().V1().Namespaces(), watched.Core().V1().Pods(),
		nil, nil, nil, nil,
		networkpolicy.Config{NodeName: *node, QueueID: *queue},
	)
	if err != nil {
		klog.Fatal(err)
	}
	watched.Start(context.Background().Done())
	klog.Fatal(controller.Run(context.Background()))
}
