module example.com/x/v1.2.3/sub

go 1.21
