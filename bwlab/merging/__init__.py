"""Make adapters from other adapters and from models: conversion, merging and extraction."""
