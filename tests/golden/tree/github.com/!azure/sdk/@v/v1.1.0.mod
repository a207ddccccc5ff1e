module github.com/Azure/sdk

go 1.21
