module github.com/Azure/sdk/v2

go 1.21
